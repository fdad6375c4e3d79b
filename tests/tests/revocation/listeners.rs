//! Listeners: clients that are revoked, and responses that are stapled.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use openssl::ssl::{SslConnector, SslFiletype, SslMethod};
use ssa_tests::{
    agent::Agent,
    app::App,
    eventually,
    nginx::Peer,
    pki::{Identity, Leaf, Pki},
    server::closed_port,
    status::{Known, Responder, crl},
};

use crate::scene::*;

#[test]
fn clients_with_revoked_certificates_are_not_let_in() {
    let pki = Pki::new();
    let agent = Agent::start_with(local());
    let folder = tempfile::tempdir().unwrap();
    let nginx = Peer::nginx_files(folder.path());
    let url = format!("URI:http://127.0.0.1:{}/clients.crl", nginx.port);
    let client = |name: &str| pki.leaf(Leaf::of(&[name]).with(&[("crlDistributionPoints", &url)]));
    let (good, bad) = (client("good"), client("bad"));
    fs::write(folder.path().join("clients.crl"), crl(pki.root(), &[&bad.certificate], HOUR, &[])).unwrap();
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME])));
    let script = r#"
chain, key, ca = args
def demand(sock):
    sock.setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, text(ca))
    for option, value in ((TLS_REQUEST_PEER_AUTH, 2), (TLS_REVOCATION_CHECKS, 1)):
        sock.setsockopt(IPPROTO_TLS, option, value)
sock = listener(chain, key, before=demand)
out(sock.getsockname()[1])
while True:
    conn, _ = sock.accept()
    conn.sendall(conn.recv(1)); conn.close()
"#;
    let mut app = App::start(&agent, script, &[&chain, &key, &pki.ca()]);
    let port = u16::try_from(app.said().as_u64().unwrap()).unwrap();
    let talks = |name: &str, identity: &Identity| {
        let (chain, key) = pki.write(name, identity);
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder.set_ca_file(pki.ca()).unwrap();
        builder.set_certificate_chain_file(chain).unwrap();
        builder.set_private_key_file(key, SslFiletype::PEM).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // In TLS 1.3 a client hears of its refusal after its handshake.
        let Ok(mut stream) = builder.build().connect(NAME, stream) else { return false };
        stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
    };
    assert!(talks("good", &good));
    assert!(!talks("bad", &bad));
    eventually("the log says why", Duration::from_secs(5), || {
        agent.log().contains("certificate revoked on 2026-01-02: CN=bad")
    });
    app.kill();
}

#[test]
fn listeners_staple_what_their_responder_says() {
    let pki = Pki::new();
    let agent = Agent::start_with(local());
    let port = closed_port("127.0.0.1");
    let url = format!("OCSP;URI:http://127.0.0.1:{port}/");
    let middle = pki.intermediate(&[]);
    let leaf = pki.leaf_below(&middle, Leaf::of(&[NAME]).with(&[("authorityInfoAccess", &url)]));
    let known = [(&leaf.certificate, Known::Good)];
    let _responder = Responder::start(port, pki.folder(), &middle.certificate, &middle, &known, FOR_AN_HOUR);
    let (chain, key) = pki.write("stapled", &leaf);
    let script = r#"
chain, key = args
sock = listener(chain, key, before=lambda sock: sock.setsockopt(IPPROTO_TLS, TLS_SERVER_OCSP_STAPLING, 1))
out(sock.getsockname()[1])
while True:
    conn, _ = sock.accept()
    conn.recv(1); conn.close()
"#;
    let mut app = App::start(&agent, script, &[&chain, &key]);
    let port = app.said();
    eventually("a response is stapled", Duration::from_secs(20), || {
        let line = format!(
            "sleep 0.3 | timeout 10 openssl s_client -connect 127.0.0.1:{port} -servername {NAME} -status -CAfile {}",
            pki.ca()
        );
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good")
    });
    app.kill();
}
