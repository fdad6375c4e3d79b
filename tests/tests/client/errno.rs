//! `connect(2)` that fails: the errno, the text, and nothing left behind. Each case is a row of the
//! table that `cargo xtask test` prints.

use std::{io::Read as _, io::Write as _, thread, time::Duration};

use serde_json::Value;
use ssa_tests::{
    agent::Agent,
    app::python,
    pki::{Leaf, Pki, self_signed},
    report,
    server::{self, Server, closed_port, context, context_with, reset},
};

const NAME: &str = "peer.ssa.test";

const CONNECT: &str = r#"
host, port, name, ca = args
sock = tls(name or None, ca, socket.AF_INET6 if ":" in host else socket.AF_INET)
came = connect(sock, host, port)
came["cipher"] = attempt(string, sock, TLS_CHOSEN_CIPHER)
out(came)
"#;

/// Connects to `host`, notes the outcome, and checks it.
fn refused(case: &str, pki: &Pki, host: &str, port: &str, name: &str, errno: &str, text: &str) -> Value {
    let agent = Agent::start();
    let came = python(&agent, CONNECT, &[host, port, name, &pki.ca()]);
    report::errno(case, &came);
    assert_eq!(came["result"], errno, "{came}");
    let error = came["error"].as_str().unwrap();
    assert!(error.contains(text), "TLS_ERROR {error:?} lacks {text:?}");
    assert_eq!(came["state"], 4, "the socket has failed, and may try again");
    assert_eq!(came["cipher"], "EOPNOTSUPP", "there is no connection to ask about");
    came
}

/// A peer whose certificate must be refused.
fn certificate_refused(case: &str, make: impl FnOnce(&Pki) -> ssa_tests::pki::Identity, text: &str) {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &make(&pki));
    refused(case, &pki, "127.0.0.1", &server.port(), NAME, "EPROTO", text);
}

#[test]
fn expired_certificate_gets_eproto() {
    let expired = Leaf { valid: (-30, -2), ..Leaf::of(&[NAME]) };
    certificate_refused("certificate expired", |pki| pki.leaf(expired), "certificate expired on 20");
}

#[test]
fn certificate_not_yet_valid_gets_eproto() {
    let future = Leaf { valid: (2, 30), ..Leaf::of(&[NAME]) };
    certificate_refused("certificate not yet valid", |pki| pki.leaf(future), "certificate not valid before 20");
}

#[test]
fn wrong_name_gets_eproto() {
    let other = Leaf::of(&["other.ssa.test"]);
    certificate_refused(
        "wrong host name",
        |pki| pki.leaf(other),
        "certificate is for other.ssa.test, not for this host",
    );
}

#[test]
fn self_signed_certificate_gets_eproto() {
    certificate_refused("self-signed certificate", |_pki| self_signed(Leaf::of(&[NAME])), "self-signed certificate");
}

#[test]
fn unknown_ca_gets_eproto() {
    let stranger = Pki::new();
    certificate_refused("unknown CA", |_pki| stranger.leaf(Leaf::of(&[NAME])), "certificate refused: ");
}

#[test]
fn incomplete_chain_gets_eproto() {
    let cut = |pki: &Pki| {
        let mut leaf = pki.leaf_below_intermediate(Leaf::of(&[NAME]));
        leaf.intermediates.clear();
        leaf
    };
    certificate_refused("incomplete chain", cut, "unable to get local issuer certificate");
}

#[test]
fn address_that_the_certificate_lacks_gets_eproto() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&["alias.ssa.test"]));
    let server = Server::echo("127.0.0.1", &leaf);
    let came = refused("name of an address", &pki, "127.0.0.1", &server.port(), "127.0.0.1", "EPROTO", "is for alias");
    assert!(came["ms"].as_f64().unwrap() < 1500.0, "{came}");
}

#[test]
fn partial_wildcard_gets_eproto() {
    certificate_refused("partial wildcard", |pki| pki.leaf(Leaf::of(&["pe*.ssa.test"])), "not for this host");
}

#[test]
fn tls_1_1_only_gets_eproto() {
    let pki = Pki::new();
    let context = context_with(&pki.leaf(Leaf::of(&[NAME])), |acceptor| {
        acceptor.set_security_level(0);
        acceptor.set_min_proto_version(Some(openssl::ssl::SslVersion::TLS1)).unwrap();
        acceptor.set_max_proto_version(Some(openssl::ssl::SslVersion::TLS1_1)).unwrap();
        acceptor.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
    });
    let server = Server::tls("127.0.0.1", context, ssa_tests::server::echo);
    refused("server speaks TLS 1.1 only", &pki, "127.0.0.1", &server.port(), NAME, "EPROTO", "version");
}

#[test]
fn http_server_gets_eproto() {
    let pki = Pki::new();
    let server = Server::tcp("127.0.0.1", |mut stream| {
        let _read = stream.read(&mut [0; 4096]);
        let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let text = "does not seem to speak TLS";
    refused("server speaks HTTP", &pki, "127.0.0.1", &server.port(), NAME, "EPROTO", text);
}

#[test]
fn closed_port_gets_econnrefused() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1").to_string();
    refused("closed port", &pki, "127.0.0.1", &port, NAME, "ECONNREFUSED", "Connection refused");
}

#[test]
fn closed_port_over_ipv6_gets_econnrefused() {
    let pki = Pki::new();
    let port = closed_port("::1").to_string();
    refused("closed port, IPv6", &pki, "::1", &port, NAME, "ECONNREFUSED", "Connection refused");
}

#[test]
fn refusal_over_ipv6_and_v4_mapped_gets_eproto() {
    let pki = Pki::new();
    let stranger = Pki::new();
    for (case, host, at) in [("IPv6", "::1", "::1"), ("v4-mapped", "::ffff:127.0.0.1", "127.0.0.1")] {
        let server = Server::echo(at, &stranger.leaf(Leaf::of(&[NAME])));
        let case = format!("unknown CA, {case}");
        refused(&case, &pki, host, &server.port(), NAME, "EPROTO", "certificate refused");
    }
}

#[test]
fn stall_in_mid_handshake_gets_ehostunreach() {
    let pki = Pki::new();
    let server = Server::tcp("127.0.0.1", |stream| {
        thread::sleep(Duration::from_secs(30));
        drop(stream);
    });
    let text = "did not finish the TLS handshake within 2 s";
    let came = refused("stall in mid-handshake", &pki, "127.0.0.1", &server.port(), NAME, "EHOSTUNREACH", text);
    let ms = came["ms"].as_f64().unwrap();
    assert!((1900.0..9000.0).contains(&ms), "{came}");
}

#[test]
fn reset_in_mid_handshake_gets_eproto() {
    let pki = Pki::new();
    let server = Server::tcp("127.0.0.1", |mut stream| {
        let _read = stream.read(&mut [0; 100]);
        reset(&stream);
    });
    refused("reset in mid-handshake", &pki, "127.0.0.1", &server.port(), NAME, "EPROTO", "reset");
}

#[test]
fn fin_in_mid_handshake_gets_eproto() {
    let pki = Pki::new();
    let server = Server::tcp("127.0.0.1", |mut stream| {
        let _read = stream.read(&mut [0; 4096]);
    });
    refused("FIN in mid-handshake", &pki, "127.0.0.1", &server.port(), NAME, "EPROTO", "closed the connection");
}

#[test]
fn black_hole_gets_ehostunreach() {
    let pki = Pki::new();
    // A listener whose queue is full answers no SYN.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let _full: Vec<_> =
        (0..3).map(|_| std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(300))).collect();
    let port = addr.port().to_string();
    refused("black hole", &pki, "127.0.0.1", &port, NAME, "EHOSTUNREACH", "no answer from 127.0.0.1");
}

#[test]
fn connect_without_a_name_gets_eproto() {
    let (pki, server) = server::echo_peer(NAME);
    refused("no host name", &pki, "127.0.0.1", &server.port(), "", "EPROTO", "no host name is set");
    assert_eq!(server.accepted(), 0);
}

#[test]
fn unreachable_network_and_host_keep_their_errno() {
    let pki = Pki::new();
    let agent = Agent::start();
    // A namespace with loopback and one dead-end route; the rest is unreachable.
    let came = python(&agent, "unreachable.py", &[NAME, &pki.ca()]);
    for (case, errno) in [
        ("no route", "ENETUNREACH"),
        ("unreachable host", "EHOSTUNREACH"),
        ("no route, IPv6", "ENETUNREACH"),
        ("unreachable host, IPv6", "EHOSTUNREACH"),
    ] {
        report::errno(case, &came[case]);
        assert_eq!(came[case]["result"], errno, "{case}: {came}");
        assert_eq!(came[case]["plain"], errno, "{case}: what a plain socket gets");
    }
}

#[test]
fn unreadable_and_senseless_trust_gets_eproto() {
    let (pki, server) = server::echo_peer(NAME);
    let folder = pki.folder().to_string_lossy().into_owned();
    std::fs::write(pki.folder().join("text.pem"), "no certificate").unwrap();
    nix::unistd::mkfifo(&pki.folder().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let large = std::fs::File::create(pki.folder().join("large")).unwrap();
    large.set_len(100 << 20).unwrap();
    let agent = Agent::start();
    for (case, file, text) in [
        ("trust: no such file", "absent.pem", "No such file"),
        ("trust: no certificate", "text.pem", "no certificate found"),
        ("trust: a FIFO", "fifo", "neither a file nor a directory"),
        ("trust: 100 MB", "large", "larger than"),
        ("trust: a folder without any", ".", "no certificate found"),
    ] {
        let path = format!("{folder}/{file}");
        let came = python(&agent, CONNECT, &["127.0.0.1", &server.port(), NAME, &path]);
        report::errno(case, &came);
        assert_eq!(came["result"], "EPROTO", "{case}: {came}");
        assert!(came["error"].as_str().unwrap().contains(text), "{case}: {came}");
    }
    let came = python(&agent, CONNECT, &["127.0.0.1", &server.port(), NAME, "/dev/zero"]);
    assert_eq!(came["result"], "EPROTO", "{came}");
}

#[test]
fn good_certificate_of_an_intermediate_connects() {
    let pki = Pki::new();
    let identity = pki.leaf_below_intermediate(Leaf::of(&[NAME]));
    let server = Server::tls("127.0.0.1", context(&identity), ssa_tests::server::echo);
    let agent = Agent::start();
    let came = python(&agent, CONNECT, &["127.0.0.1", &server.port(), NAME, &pki.ca()]);
    assert_eq!(came["result"], "ok", "{came}");
    assert_eq!(came["cipher"], "ok");
}
