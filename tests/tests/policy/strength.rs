//! What is weaker than the policy is refused; trust and credentials are the administrator's.

use std::{fs, process::Command};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{App, python},
    config::Config,
    nginx::Peer,
    pki::{Leaf, Pki},
    server::{Server, context_with},
};

use crate::fixture::*;

#[test]
fn option_weaker_than_the_policy_gets_eproto() {
    let (pki, server) = echo();
    let config = r#"
[tls]
version_min = "1.3"
ciphersuites = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"]
ciphers = []
alpn = ["h2"]
[trust]
applications_may_bring_cas = false
system = false
files = ["CA"]
[sessions]
reuse = false
lifetime_seconds = 60
"#;
    let agent = Agent::start_with(config.replace("CA", &pki.ca()));
    let came = python(&agent, "weaker_and_stronger.py", &[&server.port(), NAME, &pki.ca()]);
    let weaker = json!(["EPROTO", "weaker than the administrator's policy allows"]);
    assert_eq!(came["weaker"], json!(vec![weaker; 8]));
    assert_eq!(came["stronger"], json!(vec!["ok"; 7]));
    assert_eq!(came["defaults"], json!([0x304, 0x304, 0, 60, "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"]));
    assert_eq!(came["connect"]["result"], "ok", "{came}");
    assert_eq!(came["cipher"], "TLS_AES_256_GCM_SHA384");
    assert_eq!(came["refused set changes nothing"], json!([0x304, "ok"]));
}

#[test]
fn policy_sets_trust_depth_groups_alpn_and_credentials() {
    let pki = Pki::new();
    let deep = pki.leaf_below_intermediate(Leaf::of(&[NAME]));
    let server = Server::tls(
        "127.0.0.1",
        context_with(&deep, |acceptor| {
            acceptor.set_groups_list("P-384").unwrap();
            acceptor.set_alpn_select_callback(|_ssl, offered| {
                openssl::ssl::select_next_proto(b"\x02h2", offered).ok_or(openssl::ssl::AlpnError::NOACK)
            });
        }),
        ssa_tests::server::echo,
    );
    let (chain, key) = pki.write("client", &pki.leaf(Leaf::of(&["client"])));
    let (server_chain, server_key) = pki.write("nginx", &pki.leaf(Leaf::of(&[NAME])));
    let demand = format!("ssl_client_certificate {}; ssl_verify_client on; ssl_verify_depth 3;", pki.ca());
    let nginx = Peer::nginx_with(&pki, &server_chain, &server_key, &demand);
    let connects = |config: Config, port: &str| {
        let script = r#"
sock = tls(args[1])
came = connect(sock, "127.0.0.1", args[0])
out([came, attempt(string, sock, TLS_ALPN) == "ok" and string(sock, TLS_ALPN)])
"#;
        python(&Agent::start_with(config), script, &[port, NAME])
    };
    let trust = || Config::section("trust").set("system", false).set("files", [pki.ca().as_str()]);
    let came = connects(trust().and(Config::section("tls")).set("alpn", ["h2"]), &server.port());
    assert_eq!((&came[0]["result"], &came[1]), (&json!("ok"), &json!("h2")), "{came}");
    let came = connects(trust().set("verify_depth", 0), &server.port());
    assert_eq!(came[0]["result"], "EPROTO", "{came}");
    assert!(came[0]["error"].as_str().unwrap().contains("too long"), "{came}");
    for (key, value) in [("groups", "X25519"), ("signature_algorithms", "rsa_pss_rsae_sha256")] {
        let came = connects(trust().and(Config::section("tls")).set(key, [value]), &server.port());
        assert_eq!(came[0]["result"], "EPROTO", "{key}: {came}");
    }
    let rehashed = tempfile::tempdir().unwrap();
    fs::copy(pki.ca(), rehashed.path().join("ca.pem")).unwrap();
    assert!(Command::new("openssl").arg("rehash").arg(rehashed.path()).output().unwrap().status.success());
    let trust = Config::section("trust").set("system", false).set("directories", [rehashed.path().to_str().unwrap()]);
    let config = trust.and(Config::section("credentials").set("chain", &chain[..]).set("key", &key[..]));
    let agent = Agent::start_with(config);
    let script = r#"
sock = tls(args[1])
sock.connect(("127.0.0.1", int(args[0])))
sock.send(b"GET / HTTP/1.0\r\n\r\n")
out(read_all(sock).decode().split("\r\n\r\n")[1])
"#;
    let came = python(&agent, script, &[&nginx.port(), NAME]);
    assert!(came.as_str().unwrap().contains("CN=client,O=SSA tests"), "{came}");
}

#[test]
fn sockets_are_limited_in_all_and_for_each_user() {
    let agent = Agent::start_with(Config::section("limits").set("sockets", 7).set("sockets_per_user", 5));
    let mut app = App::start(&agent, "socket_limits.py", &[]);
    let (ok, full) = ("ok", "ENOBUFS");
    // What was refused does not count.
    assert_eq!(app.said(), json!([[ok, ok, ok, ok, ok, full], "EPROTO", [ok, ok, full]]));
    assert_eq!(app.said(), json!([ok, ok, ok, ok, ok]));
    app.finish();
}
