//! Chains, sessions and stapled responses that a listener shows.

use std::{process::Command, time::Duration};

use openssl::{pkey::PKey, rsa::Rsa, ssl::SslVersion};
use ssa_tests::{eventually, pki::Leaf};

use crate::site::*;

#[test]
fn chain_is_chosen_by_name_and_by_type_of_key() {
    let site = site();
    let mut sets = Vec::new();
    for (file, names) in [("one", &["one.test"][..]), ("two", &["two.test"]), ("wild", &["*.wild.test"])] {
        let (chain, key) = site.pki.write(file, &site.pki.leaf(Leaf::of(names)));
        sets.extend([chain, key]);
    }
    let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let (chain, key) = site.pki.write("rsa", &site.pki.leaf_with_key(Leaf::of(&["two.test"]), rsa));
    sets.extend([chain, key]);
    let script = r#"
chain, key, *sets = args
def more(sock):
    for index in range(0, len(sets), 2):
        set_credentials(sock, sets[index], sets[index + 1])
sock = listener(chain, key, before=more)
out(sock.getsockname()[1])
def serve():
    while True: threading.Thread(target=echo, args=(sock.accept()[0],)).start()
threading.Thread(target=serve, daemon=True).start()
wait(); os._exit(0)
"#;
    let more: Vec<&str> = sets.iter().map(String::as_str).collect();
    let mut app = site.start(script, &more);
    let addr = addr(&app.said());
    let shown = |name: &str, ciphers: &str| {
        let connector = connector(&site.pki, |builder| {
            builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
            builder.set_cipher_list(ciphers).unwrap();
        });
        connect(&connector, addr, name).map(|stream| {
            let certificate = stream.ssl().peer_certificate().unwrap();
            let names: Vec<String> = certificate
                .subject_alt_names()
                .unwrap()
                .iter()
                .filter_map(|name| name.dnsname().map(str::to_owned))
                .collect();
            (names[0].clone(), certificate.public_key().unwrap().id())
        })
    };
    use openssl::pkey::Id;
    assert_eq!(shown("one.test", "ECDHE+AESGCM"), Ok(("one.test".to_owned(), Id::EC)));
    assert_eq!(shown("two.test", "ECDHE-RSA-AES128-GCM-SHA256"), Ok(("two.test".to_owned(), Id::RSA)));
    assert_eq!(shown("two.test", "ECDHE-ECDSA-AES128-GCM-SHA256"), Ok(("two.test".to_owned(), Id::EC)));
    assert_eq!(shown("a.wild.test", "ECDHE+AESGCM"), Ok(("*.wild.test".to_owned(), Id::EC)));
    assert!(shown("a.b.wild.test", "ECDHE+AESGCM").unwrap_err().contains("verify failed"), "a wildcard is one label");
    assert!(shown("one.test", "ECDHE-RSA-AES128-GCM-SHA256").is_err(), "no other name's key");
    assert_eq!(shown("127.0.0.1", "ECDHE+AESGCM"), Ok((NAME.to_owned(), Id::EC)), "the first chain");
    app.go();
}

#[test]
fn sessions_resume_over_both_versions() {
    let site = site();
    let script = r#"
chain, key = args
sock = listener(chain, key)
out(sock.getsockname()[1])
for _ in range(4):
    conn, _ = sock.accept()
    out(about(conn)["resumed"]); echo(conn)
"#;
    let mut app = site.start(script, &[]);
    let addr = addr(&app.said());
    eventually("it listens", Duration::from_secs(10), || site.agent.log().contains("serving a listener"));
    for version in ["-tls1_3", "-tls1_2"] {
        let file = site.pki.folder().join("session");
        for (what, resumed) in [("-sess_out", 0), ("-sess_in", 1)] {
            let arguments = format!("-verify_return_error {version} {what} {}", file.display());
            let said = s_client("echo x; sleep 1", addr, &site.pki.ca(), &arguments);
            assert_eq!(said.contains("Reused, TLS"), resumed == 1, "{version}: {said}");
            assert!(file.exists(), "{said}");
            assert_eq!(app.said(), resumed);
        }
    }
    app.finish();
}

#[test]
fn response_beside_the_chain_is_stapled() {
    let site = site();
    // Signed by the CA itself, by OpenSSL's own responder.
    let folder = site.pki.folder();
    let line = format!(
        "cd {} && touch index.txt && openssl ocsp -issuer ca.pem -cert {} -reqout request -no_nonce && \
         openssl ocsp -index index.txt -rsigner ca.pem -rkey ca.key -CA ca.pem -reqin request -respout {}.ocsp -ndays 1",
        folder.display(),
        site.chain,
        site.chain
    );
    let (good, said) = run({
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]);
        shell
    });
    assert!(good, "{said}");
    let script = r#"
chain, key = args
def stapling(on): return lambda sock: sock.setsockopt(IPPROTO_TLS, TLS_SERVER_OCSP_STAPLING, on)
socks = [listener(chain, key, before=stapling(on)) for on in (0, 1)]
out([sock.getsockname()[1] for sock in socks])
for sock in socks: echo(sock.accept()[0])
"#;
    let mut app = site.start(script, &[]);
    let ports = app.said();
    for (index, stapled) in [false, true].into_iter().enumerate() {
        let said = s_client("sleep 2", format!("127.0.0.1:{}", ports[index]), &site.pki.ca(), "-status");
        assert_eq!(said.contains("OCSP Response Status: successful"), stapled, "{said}");
    }
    app.finish();
}

#[test]
fn replaced_certificate_is_taken_up_unless_it_is_bad() {
    let site = site();
    let script = r#"
chain, key = args
sock = listener(chain, key)
out(sock.getsockname()[1])
def serve():
    while True: sock.accept()[0].close()
threading.Thread(target=serve, daemon=True).start()
wait(); os._exit(0)
"#;
    let mut app = site.start(script, &[]);
    let addr = addr(&app.said());
    let connector = connector(&site.pki, |_builder| {});
    let serial = || {
        let stream = connect(&connector, addr, NAME).unwrap();
        stream.ssl().peer_certificate().unwrap().digest(openssl::hash::MessageDigest::sha256()).unwrap().to_vec()
    };
    let before = serial();
    std::fs::write(&site.key, "nonsense").unwrap();
    eventually("the log says so", Duration::from_secs(10), || site.agent.log().contains("the old ones stay"));
    assert_eq!(serial(), before);
    let renewed = site.pki.leaf(Leaf::of(&[NAME, "renewed"]));
    site.pki.write("server", &renewed);
    eventually("the new one is shown", Duration::from_secs(10), || serial() != before);
    let now = renewed.certificate.digest(openssl::hash::MessageDigest::sha256()).unwrap().to_vec();
    assert_eq!(serial(), now);
    app.go();
}
