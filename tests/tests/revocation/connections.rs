//! Connections whose peer is revoked after the handshake, or was before the last one.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use ssa_tests::{
    agent::{Agent, executable},
    app::App,
    eventually,
    pki::{Leaf, Pki},
    server::{Server, closed_port},
    status::{Known, Responder, Setup},
};

use crate::scene::*;

#[test]
fn resumed_session_is_refused_when_its_peer_is_revoked() {
    let pki = Pki::new();
    let agent = Agent::start_with(local());
    let port = closed_port("127.0.0.1");
    let url = format!("OCSP;URI:http://127.0.0.1:{port}/");
    let leaf = pki.leaf(Leaf::of(&[NAME]).with(&[("authorityInfoAccess", &url)]));
    let root = pki.root();
    let run = |known| {
        Responder::start(port, pki.folder(), &root.certificate, root, &[(&leaf.certificate, known)], Setup::default())
    };
    let good = run(Known::Good);
    let server = Server::echo("127.0.0.1", &leaf);
    let mut app = App::start(&agent, "revoked_resumed.py", &[NAME, &pki.ca(), &server.port()]);
    assert_eq!(app.said(), json!([["ok", 0], ["ok", 1]]));
    drop(good);
    let _bad = run(Known::Revoked);
    app.go();
    assert_eq!(app.said(), json!(["EPROTO", true]));
}

/// Asks `ssa-agent connections --json`.
fn connections(agent: &Agent) -> Value {
    let output =
        Command::new(executable()).args(["connections", "--json", "--cgroup"]).arg(agent.cgroup()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn connection_of_a_revoked_peer_is_listed_or_reset() {
    for close in [false, true] {
        let config = local().set("close_revoked", close);
        let mut scene = Scene::with(config);
        let root = scene.root().clone();
        let port = closed_port("127.0.0.1");
        let leaf = scene.leaf(Some(&format!("http://127.0.0.1:{port}/")), None);
        let folder = scene.folder().to_owned();
        let run = |known| {
            Responder::start(port, &folder, &root.certificate, &root, &[(&leaf.certificate, known)], FOR_AN_HOUR)
        };
        let good = run(Known::Good);
        let target = peer(&leaf, None);
        let script = r#"
host, ca, port = args
sock = tls(host, ca); sock.setsockopt(IPPROTO_TLS, TLS_REVOCATION_CHECKS, 1)
out(connect(sock, "127.0.0.1", port)["result"]); wait()
def talk():
    sock.sendall(b"x"); sock.recv(1)
out([attempt(talk), error(sock)]); wait()
"#;
        let mut app = App::start(&scene.agent, script, &[NAME, &scene.pki.ca(), &target.port()]);
        assert_eq!(app.said(), json!("ok"));
        drop(good);
        let _bad = run(Known::Revoked);
        // Another application asks anew, and both learn of it.
        assert_eq!(scene.connect(&target, OCSP).0, "EPROTO");
        if close {
            eventually("it is reset", Duration::from_secs(5), || connections(&scene.agent) == json!([]));
            app.go();
            let said = app.said();
            assert!(matches!(said[0].as_str(), Some("ECONNRESET" | "EPIPE")), "{said}");
            let text = said[1].as_str().unwrap();
            assert!(text.contains("the peer was revoked while it was connected: certificate revoked on"), "{text}");
        } else {
            eventually("it is listed", Duration::from_secs(5), || {
                let text = connections(&scene.agent)[0]["revoked"].as_str().unwrap_or_default().to_owned();
                text.contains("certificate revoked on 2026-01-02 (keyCompromise)")
            });
            app.go();
            assert_eq!(app.said(), json!(["ok", ""]));
        }
        eventually("the log says so", Duration::from_secs(5), || scene.agent.log().contains("the peer is revoked"));
        app.kill();
    }
}
