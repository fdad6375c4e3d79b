//! Applications that speak TLS themselves.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::python,
    eventually,
    nginx::{Peer, redis_server},
    pki::{Leaf, Pki},
    server::{self, Server, closed_port},
    sniffer::Sniffer,
};

use crate::fixture::*;

#[test]
fn passthrough_rule_passes_app_tls_on() {
    let pki = Pki::new();
    let (chain, key) = pki.write("redis", &pki.leaf(Leaf::of(&[NAME])));
    let port = closed_port("127.0.0.1");
    let text_port = port.to_string();
    let tls = ["--port", "0", "--tls-port", &text_port, "--tls-cert-file", &chain, "--tls-key-file", &key];
    let rest = ["--tls-ca-cert-file", &pki.ca(), "--tls-auth-clients", "no"];
    let _redis = Peer::redis(pki.folder(), redis_server(), port, &[&tls[..], &rest[..]].concat());
    let agent = Agent::start_with(out(port, &pki).set("app_tls", "passthrough"));
    let redis_cli = |more: &[&str]| run(&agent, "redis-cli", &[&["-h", "127.0.0.1", "-p", &text_port], more].concat());
    assert_eq!(redis_cli(&["set", "key", "value"]), "OK", "the agent's TLS");
    assert_eq!(redis_cli(&["--tls", "--sni", NAME, "--cacert", &pki.ca(), "get", "key"]), "value", "its own");
    eventually("the log says whose", Duration::from_secs(5), || {
        let log = agent.log();
        log.contains("its own TLS") && log.contains("TLS 1.3")
    });
    // What begins like TLS must go on like it.
    let script = r#"
sock = socket.create_connection(("127.0.0.1", int(args[0])))
sock.settimeout(20)
sock.sendall(bytes([22, 3, 1, 0, 1, 1]))
time.sleep(0.2)
try:
    sock.sendall(b"canary-in-plain-sight")
    out(sock.recv(100).decode())
except OSError as error: out(errno.errorcode[error.errno])
"#;
    let sniffer = Sniffer::start();
    assert_eq!(python(&agent, script, &[&text_port]), json!("ECONNRESET"));
    assert!(!sniffer.stop().iter().any(|packet| leaks(packet, port)));
    eventually("the log says why", Duration::from_secs(5), || agent.log().contains("goes on with something else"));
}

#[test]
fn passthrough_rule_still_verifies_peer_of_plaintext_app() {
    let pki = Pki::new();
    let greets = |name: &str| {
        Server::tls("127.0.0.1", server::context(&pki.leaf(Leaf::of(&[name]))), |mut stream| {
            let _gone = stream.write_all(b"welcome");
            let _gone = stream.read(&mut [0; 10]);
        })
    };
    let (right, wrong) = (greets(NAME), greets("other.ssa.test"));
    let rule = |server: &Server| {
        let port = server.addr.port();
        out_by(&port.to_string(), port, &pki).set("app_tls", "passthrough")
    };
    let agent = Agent::start_with(rule(&right).and(rule(&wrong)));
    let script = r#"
def first(port):
    sock = socket.create_connection(("127.0.0.1", int(port)))
    sock.settimeout(20)
    try: return sock.recv(100).decode()
    except OSError as reset: return [errno.errorcode[reset.errno], "other.ssa.test" in error(sock) or error(sock)]
out([first(port) for port in args])
"#;
    let said = python(&agent, script, &[&right.port(), &wrong.port()]);
    assert_eq!(said, json!(["welcome", ["ECONNRESET", true]]));
}
