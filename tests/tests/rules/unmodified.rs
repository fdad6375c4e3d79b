//! Clients and servers as Debian has them: curl, redis, psql, node.

use std::{process::Command, time::Duration};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{command, python},
    eventually,
    nginx::{Peer, redis_server},
    pki::{Leaf, Pki},
    server::closed_port,
};

use crate::fixture::*;

/// nginx, redis and PostgreSQL with TLS; curl, redis-cli and others without.
#[test]
fn unmodified_curl_reaches_nginx() {
    let pki = Pki::new();
    let (chain, key) = pki.write("peer", &pki.leaf(Leaf::of(&[NAME])));
    let peer = Peer::nginx(&pki, &chain, &key);
    let agent = Agent::start_with(out(peer.port, &pki));
    let mut curl = command(&agent, "curl");
    curl.args(["-sS", "--max-time", "20", &format!("http://127.0.0.1:{}/", peer.port)]);
    let said = text(&curl.output().unwrap());
    assert!(said.starts_with(&format!("ssa TLSv1.3 {NAME}")), "{said}");
}

#[test]
fn unmodified_redis_cli_and_nc_reach_redis_with_tls() {
    let pki = Pki::new();
    let (chain, key) = pki.write("redis", &pki.leaf(Leaf::of(&[NAME])));
    let port = closed_port("127.0.0.1");
    let tls = ["--port", "0", "--tls-port", &port.to_string(), "--tls-cert-file", &chain, "--tls-key-file", &key];
    let rest = ["--tls-ca-cert-file", &pki.ca(), "--tls-auth-clients", "no"];
    let _redis = Peer::redis(pki.folder(), redis_server(), port, &[&tls[..], &rest[..]].concat());
    let agent = Agent::start_with(out(port, &pki));
    let port = port.to_string();
    assert_eq!(run(&agent, "redis-cli", &["-h", "127.0.0.1", "-p", &port, "set", "key", "value"]), "OK");
    assert_eq!(run(&agent, "redis-cli", &["-h", "127.0.0.1", "-p", &port, "get", "key"]), "value");
    let talk = format!("printf 'GET key\r\nQUIT\r\n' | nc -w 10 127.0.0.1 {port}");
    assert_eq!(run(&agent, "sh", &["-c", &talk]), "$5\r\nvalue\r\n+OK");
    let outside = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port, "get", "key"]).output().unwrap();
    assert!(!text(&outside).contains("value"), "{}", text(&outside));
    // An application that speaks TLS already is told to leave it.
    let arguments = ["-h", "127.0.0.1", "-p", &port, "--tls", "--insecure", "get", "key"];
    let own = command(&agent, "redis-cli").args(arguments).output().unwrap();
    assert!(!text(&own).contains("value"), "{}", text(&own));
    eventually("the log says so", Duration::from_secs(5), || agent.log().contains("speaks TLS itself"));
}

const NODE: &str = r#"
const http = require("http");
const [mode, port] = process.argv.slice(1);
if (mode === "serve") {
  http.createServer((request, response) => response.end(request.socket.remoteAddress)).listen(port, "127.0.0.1");
} else {
  http.get({ host: "127.0.0.1", port }, (response) => response.pipe(process.stdout));
}
"#;

#[test]
fn unmodified_node_reaches_nginx_and_is_served() {
    let pki = Pki::new();
    let (chain, key) = pki.write("peer", &pki.leaf(Leaf::of(&[NAME])));
    let peer = Peer::nginx(&pki, &chain, &key);
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(out(peer.port, &pki).and(served(port, &pki)));
    let said = run(&agent, "node", &["-e", NODE, "get", &peer.port.to_string()]);
    assert!(said.starts_with(&format!("ssa TLSv1.3 {NAME}")), "{said}");
    let mut node = command(&agent, "node").args(["-e", NODE, "serve", &port.to_string()]).spawn().unwrap();
    eventually("it is served", Duration::from_secs(30), || text(&https(NAME, port, &pki)) == "127.0.0.1");
    node.kill().unwrap();
    node.wait().unwrap();
}

#[test]
fn unmodified_psql_reaches_postgresql_with_tls() {
    let pki = Pki::new();
    let (chain, key) = pki.write("postgres", &pki.leaf(Leaf::of(&[NAME])));
    let postgres = Peer::postgres(&pki, &chain, &key);
    let agent = Agent::start_with(out(postgres.port, &pki).set("starttls", "postgres"));
    let ask = |sslmode: &str| {
        let connection = format!("host=127.0.0.1 port={} user=postgres sslmode={sslmode}", postgres.port);
        let question = "select version from pg_stat_ssl where pid = pg_backend_pid()";
        run(&agent, "psql", &["-XAt", "-c", question, &connection])
    };
    // With the second, psql asks for TLS, and is told that there is none.
    assert_eq!(ask("disable"), "TLSv1.3");
    assert_eq!(ask("prefer"), "TLSv1.3");
}

const BIND: &str = r#"
try: socket.create_server(("127.0.0.1", 0)); out("bound")
except OSError as error: out(errno.errorcode[error.errno])
"#;

#[test]
fn unmodified_redis_is_served_as_tls() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(deny("nothing else", "in").and(served(port, &pki)));
    assert_eq!(python(&agent, BIND, &[]), json!("EACCES"));
    let server = redis_server();
    let mut redis = command(&agent, "bash");
    redis.arg("-c").arg("exec -a redis-server \"$0\" \"$@\"").arg(server.get_program());
    let text_port = port.to_string();
    let _redis = Peer::redis(pki.folder(), redis, port, &["--port", &text_port]);
    let ask = || {
        let arguments = ["-h", "127.0.0.1", "-p", &text_port, "--tls", "--sni", NAME, "--cacert", &pki.ca(), "ping"];
        text(&Command::new("redis-cli").args(arguments).output().unwrap())
    };
    eventually("redis answers through TLS", Duration::from_secs(10), || ask().trim() == "PONG");
    // Peer::redis has connected in plaintext, and got nowhere: the handshake was the kernel's.
    let plain = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &text_port, "ping"]).output().unwrap();
    assert!(!text(&plain).contains("PONG"), "{}", text(&plain));
}
