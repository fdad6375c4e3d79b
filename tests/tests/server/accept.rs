//! What comes out of `accept` has a finished handshake behind it, and tells of its client.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use openssl::ssl::SslVersion;
use serde_json::json;
use ssa_tests::{eventually, pki::Leaf};

use crate::site::*;

#[test]
fn accepted_socket_tells_of_its_client() {
    let site = site();
    let mut app = site.start("accept_facts.py", &[&site.pki.ca()]);
    let addr = addr(&app.said());
    let client = site.pki.leaf(Leaf::of(&["client"]));
    let with = connector(&site.pki, |builder| {
        builder.set_alpn_protos(b"\x08http/1.1\x02h2").unwrap();
        builder.set_certificate(&client.certificate).unwrap();
        builder.set_private_key(&client.key).unwrap();
    });
    let mut stream = connect(&with, addr, NAME).unwrap();
    assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&b"h2"[..]), "the server's order");
    let came = app.said();
    assert_eq!(came[0]["sni"], NAME);
    assert_eq!(came[0]["alpn"], "h2");
    assert_eq!(came[0]["identity"], "CN=client,O=SSA tests");
    assert_eq!(json!([came[0]["count"], came[0]["fingerprint"], came[0]["chain"]]), json!([2, 32, "-----BEGIN"]));
    assert_eq!(json!([came[0]["version"], came[0]["state"], came[0]["error"]]), json!([0x304, 2, ""]));
    assert_eq!(
        json!([came[1], came[2], came[3], came[4], came[5]]),
        json!([true, true, "EOPNOTSUPP", "EOPNOTSUPP", 1])
    );
    stream.write_all(b"echo").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"echo");
    let _gone = stream.shutdown();
    // Without a certificate, without SNI (an address), over TLS 1.2.
    let without = connector(&site.pki, |builder| builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap());
    let mut stream = connect(&without, addr, "127.0.0.1").unwrap();
    let came = app.said();
    let nothing = json!([
        came[0]["sni"],
        came[0]["identity"],
        came[0]["fingerprint"],
        came[0]["chain"],
        came[0]["count"],
        came[0]["alpn"]
    ]);
    assert_eq!(nothing, json!(["ENOENT", "ENOENT", "ENOENT".len(), "ENOENT", 0, ""]));
    assert_eq!(came[0]["version"], 0x303);
    let _gone = stream.shutdown();
    // A certificate of somebody else's CA: no handshake, nothing accepted.
    let stranger = ssa_tests::pki::self_signed(Leaf::of(&["stranger"]));
    let wrong = connector(&site.pki, |builder| {
        builder.set_certificate(&stranger.certificate).unwrap();
        builder.set_private_key(&stranger.key).unwrap();
    });
    let refused =
        connect(&wrong, addr, NAME).map(|mut stream| stream.read(&mut [0; 1]).map_err(|error| error.to_string()));
    assert!(!matches!(refused, Ok(Ok(_))), "{refused:?}");
    eventually("the log says so", Duration::from_secs(5), || site.agent.log().contains("refused a client"));
    let last = connect(&without, addr, NAME).unwrap();
    assert_eq!(app.said()[0]["sni"], NAME);
    drop(last);
    app.finish();
}

#[test]
fn required_client_certificate_is_required() {
    let site = site();
    let mut app = site.start("accept_certified.py", &[&site.pki.ca()]);
    let addr = addr(&app.said());
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let without = connector(&site.pki, |builder| builder.set_max_proto_version(Some(version)).unwrap());
        let refused =
            connect(&without, addr, NAME).map(|mut stream| stream.read(&mut [0; 1]).map_err(|error| error.to_string()));
        assert!(!matches!(refused, Ok(Ok(_))), "{refused:?}");
    }
    let client = site.pki.leaf(Leaf::of(&["client"]));
    let with = connector(&site.pki, |builder| {
        builder.set_certificate(&client.certificate).unwrap();
        builder.set_private_key(&client.key).unwrap();
    });
    let _stream = connect(&with, addr, NAME).unwrap();
    assert_eq!(app.said(), "CN=client,O=SSA tests", "the first that came out of accept");
    let came = app.said();
    assert!(["EINVAL", "ECONNABORTED"].contains(&came[0].as_str().unwrap()), "{came}");
    assert!(came[1].as_str().unwrap().contains("clients' certificates need CAs"), "{came}");
    app.finish();
}

#[test]
fn listener_that_can_not_serve_fails_accept_and_says_why() {
    let site = site();
    let other = site.pki.write("other", &site.pki.leaf(Leaf::of(&["other"]))).1;
    let came = site.start("accept_refused.py", &[&other]).finish();
    let texts = ["needs a certificate", "the chain has no key", "the key does not fit", "No such file"];
    for (index, text) in texts.iter().enumerate() {
        for came in [&came[2 * index], &came[2 * index + 1]] {
            assert!(["EINVAL", "ECONNABORTED"].contains(&came[0].as_str().unwrap()), "{came}");
            assert!(came[1].as_str().unwrap().contains(text), "{came}");
        }
    }
}

#[test]
fn listeners_serve_forked_grouped_inherited_and_again() {
    let site = site();
    let came = site.start("ways_to_serve.py", &[&site.pki.ca()]).finish();
    assert_eq!(
        came,
        json!({"fork": true, "group": [true], "addresses": ["2", "3", "plain"], "beside": ["wide", "plain"], "unbound": "unbound",
               "relisten": ["before", 0, true, "after"], "exec": "exec"})
    );
}
