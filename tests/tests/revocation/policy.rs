//! What the administrator decides: who checks, who is asked, and from where.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use ssa_tests::{
    agent::{Agent, executable},
    app::{App, command, python},
    config::Config,
    eventually,
    pki::{Leaf, Pki},
    server::{self, Server, closed_port},
    status::{Known, Page, crl, response, web},
};

use crate::scene::*;

#[test]
fn local_servers_are_not_asked_unless_the_policy_allows_it() {
    let mut scene = Scene::with(Config::section("cache").set("directory", ""));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = web(move |_path, _body| {
        count.fetch_add(1, Ordering::SeqCst);
        Page::Status(500)
    });
    let port = server.addr.port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let leaf = scene.leaf(Some(&url), None);
        let (result, text) = scene.connect(&peer(&leaf, None), OCSP);
        assert!(result == "EPROTO" && text.contains("is not asked: it is local"), "{url}: {text}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn checks_are_what_application_and_policy_agree_on() {
    let (pki, server) = server::echo_peer(NAME);
    let run = |config: Config| {
        python(&Agent::start_with(config), "revocation_options.py", &[NAME, &pki.ca(), &server.port()])
    };
    let ok = "ok";
    assert_eq!(
        run(local()),
        json!([
            [0, 1, 1, 1, 1],
            [ok],
            [ok, ok],
            [ok, "EPROTO"],
            [ok, ok, ok, ok, ok],
            [ok, ok, ok, ok, ok],
            ["EINVAL", ok]
        ])
    );
    let strict = Config::section("revocation").set("checks", true).set("stapled", false).set("cached", false);
    let strict = strict.set("fetch_local", true);
    assert_eq!(
        run(strict),
        json!([
            [1, 0, 1, 1, 0],
            ["EPROTO"],
            ["EPROTO", "EPROTO"],
            [ok, "EPROTO"],
            ["EPROTO", ok, ok, "EPROTO", "EPROTO"],
            [ok, ok, ok, ok, "EPROTO"],
            ["EINVAL", "EPROTO"]
        ])
    );
}

#[test]
fn soft_fail_profile_connects_to_unknown_and_says_so() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let server = Server::echo("127.0.0.1", &leaf);
    let root = pki.root();
    let staple = response(pki.folder(), &root.certificate, root, &leaf.certificate, Known::Revoked, FOR_AN_HOUR);
    let revoked = peer(&leaf, Some(staple));
    let lenient = Config::item("profile").set("name", "lenient").set("user", 0);
    let checks = Config::section("profile.revocation").set("checks", true).set("soft_fail", true);
    let config = local().and(lenient).and(checks);
    let agent = Agent::start_with(config);
    let script = r#"
said = [connect(tls(args[0], args[1]), "127.0.0.1", port)["result"] for port in args[2:]]
sock = tls(args[0], args[1])
said += [
    attempt(sock.setsockopt, IPPROTO_TLS, option, 0)
    for option in range(TLS_REVOCATION_CHECKS, TLS_CACHED_REV_CHECKS + 1)
]
out(said + [connect(sock, "127.0.0.1", args[3])["result"]])
"#;
    let said = python(&agent, script, &[NAME, &pki.ca(), &server.port(), &revoked.port()]);
    let weaker = "EPROTO";
    assert_eq!(said, json!(["ok", "EPROTO", weaker, weaker, weaker, weaker, weaker, "EPROTO"]));
    eventually("the log says so", Duration::from_secs(5), || agent.log().contains("NOT CHECKED: soft_fail"));
    // For the whole machine it can't be had.
    let path = pki.folder().join("soft.toml");
    fs::write(&path, "[revocation]\nsoft_fail = true\n").unwrap();
    let check = Command::new(executable()).args(["check", "--config"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(!check.status.success() && said.contains("soft.toml:2:13: `soft_fail` is for profiles only"), "{said}");
}

/// A server with a CRL in a network namespace of its own: who asks from another one finds nobody.
#[test]
fn fetch_is_made_from_the_namespace_that_the_policy_names() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let url = format!("URI:http://localhost:{port}/a.crl");
    let leaf = pki.leaf(Leaf::of(&[NAME]).with(&[("crlDistributionPoints", &url)]));
    let (chain, key) = pki.write("inner", &leaf);
    fs::write(pki.folder().join("a.crl"), crl(pki.root(), &[], HOUR, &[])).unwrap();
    for (from, errno) in [("application", "ok"), ("host", "EPROTO")] {
        let agent = Agent::start_with(local().set("fetch_from", from));
        let mut command = command(&agent, "unshare");
        command.args(["--net", "python3"]);
        let folder = pki.folder().to_string_lossy().into_owned();
        let app = App::start_by(
            command,
            "revocation_namespace.py",
            &[NAME, &pki.ca(), &chain, &key, &port.to_string(), &folder],
        );
        let said = app.finish();
        assert_eq!(said[0], errno, "{from}: {said}");
    }
}
