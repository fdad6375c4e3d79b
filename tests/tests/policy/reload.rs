//! The policy is replaced while the agent runs.

use std::fs;

use serde_json::json;
use ssa_tests::{agent::Agent, app::App, config::Config};

use crate::fixture::*;

#[test]
fn reload_takes_good_files_only_and_keeps_connections() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let mut app = App::start(&agent, "reload.py", &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(app.said(), json!([["ok", 0, 0x304], ["ok", 1, 0x304], "ok"]));
    agent.configure(Config::section("tls").set("version_min", "1.3"));
    let (good, said) = agent.reload();
    assert!(good, "{said}");
    app.go();
    let fresh_then_resumed = json!(["still", ["ok", 0, 0x304], ["ok", 1, 0x304], "EPROTO"]);
    assert_eq!(app.said(), fresh_then_resumed, "sessions of another policy are not resumed");
    agent.configure(Config::section("tls").set("version_min", "1.4"));
    let (good, said) = agent.reload();
    assert!(!good && said.contains("agent.toml:5:15: unknown variant `1.4`"), "{said}");
    app.go();
    assert_eq!(app.said(), json!(["still", ["ok", 1, 0x304], "EPROTO"]), "the old policy stays");
    agent.configure(Config::section("tls").set("version_max", "1.2"));
    agent.signal(nix::sys::signal::Signal::SIGHUP);
    ssa_tests::eventually("the log says so", std::time::Duration::from_secs(5), || {
        agent.log().matches("a new policy is in force").count() == 2
    });
    app.go();
    assert_eq!(app.said(), json!(["still", ["ok", 0, 0x303], "ok"]));
    app.finish();
}

#[test]
fn control_socket_is_roots_and_speaks_json() {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        os::unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::UnixStream,
        },
    };
    let agent = Agent::start();
    let inode = fs::metadata(agent.cgroup()).unwrap().ino();
    let path = format!("/run/ssa-agent/{inode}.sock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |line: &str| {
        writeln!(stream, "{line}").unwrap();
        serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap()
    };
    assert_eq!(ask(r#"{"version":1,"command":"reload"}"#), json!({"reloaded": {"generation": 2}}));
    assert!(ask(r#"{"version":2,"command":"reload"}"#)["error"].as_str().unwrap().contains("version 2"));
    assert!(ask("nonsense")["error"].as_str().unwrap().contains("no request"));
}
