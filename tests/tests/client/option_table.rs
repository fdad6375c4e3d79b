//! The table of options: every number in every phase, the header, a C application that gets each.

use serde_json::json;
use ssa_common::uapi::{Kind, OPTIONS, Place, When, option};
use ssa_tests::{
    agent::Agent,
    app::{compile, programs},
    pki::{Leaf, Pki},
    server::Server,
};

use crate::raw::*;

/// Walks the table: every number from 80 to 160, both directions, in every phase.
#[test]
fn every_option_in_every_phase_does_as_the_table_says() {
    let (agent, pki, server) = echo();
    let (chain, key) = pki.write("own", &pki.leaf(Leaf::of(&[NAME])));
    let silent = Server::tcp("127.0.0.1", |_stream| std::thread::sleep(std::time::Duration::from_secs(10)));
    let came = raw(&agent, "every_option.py", &[&server.port(), &silent.port(), NAME, &pki.ca(), &chain, &key]);
    let mut wrong = Vec::new();
    for phase in ["fresh", "failed", "connected", "listening", "adopted", "connecting", "peer closed"] {
        for number in 80..=160 {
            let option = option(number);
            let (set, get) = option.map_or((When::Never, When::Never), |option| (option.set, option.get));
            let is_host_name = option.is_some_and(|option| option.place == Place::HostName);
            let expected = json!([expected_set(set, phase, is_host_name), expected_get(number, get, phase)]);
            let found = &came[phase][number.to_string()];
            if *found != expected {
                wrong.push(format!("{number} {phase}: {found} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn expected_set(when: When, phase: &str, is_host_name: bool) -> &'static str {
    match (when, phase) {
        (When::Never, _) => "ENOPROTOOPT",
        // Frozen: only the host name may change.
        (_, "adopted") if !is_host_name => "EOPNOTSUPP",
        (_, "fresh" | "failed" | "adopted") => "ok",
        (_, _) => "EOPNOTSUPP",
    }
}

fn expected_get(number: i32, when: When, phase: &str) -> &'static str {
    match (when, phase) {
        // The chain is a leaf and its root.
        (When::Connected, "connected" | "peer closed") if (134..148).contains(&number) => "ENOENT",
        (When::Never, _) => "ENOPROTOOPT",
        (When::Any, _)
        | (When::Connected, "connected" | "peer closed")
        | (When::Fresh, "fresh" | "failed" | "adopted") => "ok",
        (When::Connected | When::Fresh, _) => "EOPNOTSUPP",
    }
}

#[test]
fn state_follows_the_socket() {
    let (agent, pki, server) = echo();
    let script = r#"
port, host, ca, chain, key = args
came = []
sock = tls(host, ca); came.append(state(sock))
sock.setblocking(False); attempt(sock.connect, ("127.0.0.1", int(port))); came.append(state(sock))
poller = select.poll(); poller.register(sock, select.POLLOUT); poller.poll(5000); came.append(state(sock))
sock.setblocking(True); sock.shutdown(socket.SHUT_WR); came.append(state(sock) in (2, 5))
sock.recv(10); came.append(state(sock))
# One that can't serve would be ended.
listener = socket.socket()
listener.setsockopt(IPPROTO_TLS, TLS_CERTIFICATE_CHAIN, text(chain))
listener.setsockopt(IPPROTO_TLS, TLS_PRIVATE_KEY, text(key))
listener.bind(("127.0.0.1", 0)); listener.listen(); came.append(state(listener))
out(came)
"#;
    let (chain, key) = pki.write("listener", &pki.leaf(Leaf::of(&[NAME])));
    let came = raw(&agent, script, &[&server.port(), NAME, &pki.ca(), &chain, &key]);
    assert_eq!(came, json!([0, 1, 2, true, 5, 3]));
}

#[test]
fn header_compiles_as_c89_and_cpp_and_agrees_with_table() {
    let folder = tempfile::tempdir().unwrap();
    let source = programs().join("header.c");
    let strict = ["-pedantic", "-Wall", "-Wextra", "-Werror"];
    for (compiler, flags) in [
        ("gcc", vec!["-std=c89"]),
        ("gcc", vec!["-std=c11"]),
        ("g++", vec!["-x", "c++", "-std=c++98"]),
        ("g++", vec!["-x", "c++", "-std=c++20"]),
    ] {
        let flags: Vec<&str> = flags.into_iter().chain(strict).collect();
        let executable = compile(folder.path(), &source, compiler, &flags);
        let output = std::process::Command::new(executable).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        for option in OPTIONS.iter().filter(|option| option.count == 1) {
            let line = format!("{} {}\n", option.name, option.number);
            assert!(printed.contains(&line), "{compiler}: {line}");
        }
        assert!(printed.contains("IPPROTO_TLS 205\n") && printed.contains("TLS_PEER_CERTIFICATE(3) 135\n"));
        assert!(printed.contains("TLS_REMOTE_HOSTNAME 85\n"));
    }
    assert!(OPTIONS.iter().any(|option| matches!(option.kind, Kind::PathOrPem)));
}

#[test]
fn c_application_gets_every_option() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let nginx_files = pki.write("server", &leaf);
    let nginx = ssa_tests::nginx::Peer::nginx(&pki, &nginx_files.0, &nginx_files.1);
    let (chain, key) = pki.write("client", &pki.leaf(Leaf::of(&["client"])));
    let agent = Agent::start();
    let source = programs().join("options.c");
    let executable =
        compile(pki.folder(), &source, "gcc", &["-std=c99", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror"]);
    let output = ssa_tests::app::command(&agent, executable)
        .args(["127.0.0.1", &nginx.port(), NAME, &pki.ca(), &chain, &key])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let lines: std::collections::HashMap<&str, &str> =
        printed.lines().filter_map(|line| line.split_once(' ')).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let pem = |certificate: &openssl::x509::X509| String::from_utf8(certificate.to_pem().unwrap()).unwrap();
    let root = openssl::x509::X509::from_pem(pki.ca_pem().as_bytes()).unwrap();
    let expected = [
        ("TLS_CONTEXT", "set".to_owned()),
        ("TLS_HOSTNAME", NAME.to_owned()),
        ("TLS_HOSTNAME_2", NAME.to_owned()),
        ("TLS_ALPN", "h2".to_owned()),
        ("TLS_SESSION_TTL", "600".to_owned()),
        ("TLS_PEER_IDENTITY", format!("CN={NAME},O=SSA tests")),
        ("TLS_REQUEST_PEER_AUTH", "2".to_owned()),
        ("TLS_PEER_CERTIFICATE_CHAIN", (pem(&leaf.certificate) + &pem(&root)).replace('\n', "|")),
        ("TLS_ID", "set".to_owned()),
        ("TLS_TRUSTED_CIPHERS", "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384".to_owned()),
        ("TLS_CHOSEN_CIPHER", String::new()),
        ("TLS_ERROR", String::new()),
        ("TLS_REVOCATION_CHECKS", "0".to_owned()),
        ("TLS_OCSP_STAPLED_CHECKS", "1".to_owned()),
        ("TLS_OCSP_CHECKS", "0".to_owned()),
        ("TLS_CRL_CHECKS", "1".to_owned()),
        ("TLS_CACHED_REV_CHECKS", "1".to_owned()),
        ("TLS_SESSION_REUSE", "1".to_owned()),
        ("TLS_RESUMED_SESSION", "0".to_owned()),
        ("TLS_VERSION_MIN", "771".to_owned()),
        ("TLS_VERSION_MAX", "772".to_owned()),
        ("TLS_VERSION_CONN", "772".to_owned()),
        ("TLS_SERVER_OCSP_STAPLING", "1".to_owned()),
        ("TLS_STATE", "2".to_owned()),
        ("TLS_PEER_CERTIFICATE_COUNT", "2".to_owned()),
        ("TLS_PEER_CERTIFICATE", hex(&leaf.certificate.to_der().unwrap())),
        ("TLS_PEER_CERTIFICATE_SHA256", hex(&openssl::sha::sha256(&leaf.certificate.to_der().unwrap()))),
    ];
    for (name, value) in &expected {
        let found = lines.get(name).unwrap_or_else(|| panic!("{name}: {printed}"));
        assert!(found == value || *name == "TLS_CHOSEN_CIPHER" && found.starts_with("TLS_"), "{name}: {found}");
    }
    for option in OPTIONS.iter().filter(|option| option.get != When::Never) {
        assert!(expected.iter().any(|(name, _value)| *name == option.name), "the application lacks {}", option.name);
    }
}
