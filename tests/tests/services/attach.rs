//! Several cgroups of one agent: `ssa-agent attach`, `detach` and `list`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};
use ssa_tests::{
    agent::{Agent, executable},
    app::{App, is_unserved},
    cgroup::Cgroup,
    config::Config,
    eventually,
    pki::{Leaf, Pki},
    server,
};

const NAME: &str = "peer.ssa.test";

fn ask(agent: &Agent, words: &[&str]) -> Output {
    Command::new(executable()).args(words).arg("--agent").arg(agent.cgroup()).output().unwrap()
}

fn good(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn complaint(output: Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Sockets by cgroup.
fn list(agent: &Agent) -> Vec<(PathBuf, u64)> {
    let services: Value = serde_json::from_str(&good(ask(agent, &["list", "--json"]))).unwrap();
    let services = services.as_array().unwrap().iter();
    let mut list: Vec<_> = services
        .map(|one| (PathBuf::from(one["cgroup"].as_str().unwrap()), one["sockets"].as_u64().unwrap()))
        .collect();
    list.sort();
    list
}

fn within(cgroup: &Path) -> Command {
    let mut command = Command::new(executable());
    command.arg("exec").arg("--plaintext").arg("--cgroup").arg(cgroup).args(["--", "python3"]);
    command
}

const CLIENT: &str = r#"
port, name, ca = args
def new():
    sock = tls(name, ca)
    return [connect(sock, "127.0.0.1", port)["result"], sock]
out(attempt(tls, name)); wait()
came, sock = new()
out([came, id_of(tls(name), TLS_CONTEXT)]); wait()
# Detached: reset, refused, and let go when the last is closed.
came = [attempt(sock.recv, 1), attempt(tls, name)]
kept = [s for s in [sock]]
out(came); wait()
for s in kept: s.close()
sock.close()
out("closed"); wait()
out(attempt(tls, name))
"#;

#[test]
fn cgroups_are_attached_listed_and_let_go_one_by_one() {
    let (pki, server) = server::echo_peer(NAME);
    let agent = Agent::start();
    let second = Cgroup::new("second");
    let path = second.text();
    let mut app = App::start_by(within(second.path()), CLIENT, &[&server.port(), NAME, &pki.ca()]);
    assert!(is_unserved(&app.said()), "it is not attached");
    good(ask(&agent, &["attach", path]));
    assert!(complaint(ask(&agent, &["attach", path])).contains("attached already"));
    app.go();
    let came = app.said();
    assert_eq!(came[0], "ok", "{came}");

    // The first one's applications have sockets of their own, and not the other's contexts.
    let script = r#"
port, name, ca, other = args
sock = tls(name, ca)
came = connect(sock, "127.0.0.1", port)["result"]
stranger = socket.socket()
out([came, attempt(stranger.setsockopt, IPPROTO_TLS, TLS_CONTEXT, struct.pack("=Q", int(other)))]); wait()
sock.sendall(b"x"); out(sock.recv(1).decode()); wait()
"#;
    let other = came[1].to_string();
    let mut first = App::start(&agent, script, &[&server.port(), NAME, &pki.ca(), &other]);
    assert_eq!(first.said(), json!(["ok", "EINVAL"]));
    let mut want = vec![(agent.cgroup().to_owned(), 2), (second.path().to_owned(), 1)];
    want.sort();
    eventually("both are counted", Duration::from_secs(5), || list(&agent) == want);

    good(ask(&agent, &["detach", path]));
    app.go();
    // A new socket is plain again, and its options are the kernel's; one that is open was reset, and stays refused.
    let came = app.said();
    assert!(came[0] == "ECONNRESET" && is_unserved(&came[1]), "{came}");
    app.go();
    assert_eq!(app.said(), "closed");
    app.go();
    assert!(is_unserved(&app.finish()));
    assert_eq!(list(&agent), [(agent.cgroup().to_owned(), 2)]);
    first.go();
    assert_eq!(first.said(), "x", "the other service has noticed nothing");
    first.kill();
}

#[test]
fn killed_agents_successor_serves_what_was_attached() {
    let (pki, server) = server::echo_peer(NAME);
    let mut agent = Agent::start();
    let (stays, goes) = (Cgroup::new("stays"), Cgroup::new("goes"));
    for cgroup in [&stays, &goes] {
        good(ask(&agent, &["attach", cgroup.text()]));
    }
    let script = r#"
port, name, ca = args
sock = tls(name, ca)
came = [connect(sock, "127.0.0.1", port)["result"]]; out(came); wait()
out([attempt(sock.recv, 1), attempt(tls, name)]); wait()
sock = tls(name, ca)
out(connect(sock, "127.0.0.1", port)["result"])
"#;
    let mut app = App::start_by(within(stays.path()), script, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(app.said(), json!(["ok"]));
    agent.kill();
    app.go();
    assert_eq!(app.said(), json!(["ECONNRESET", "ENOTCONN"]), "the guard stays");
    drop(goes);
    agent.restart();
    app.go();
    assert_eq!(app.finish(), "ok");
    let mut want = vec![agent.cgroup().to_owned(), stays.path().to_owned()];
    want.sort();
    assert_eq!(list(&agent).into_iter().map(|(path, _sockets)| path).collect::<Vec<_>>(), want);
    agent.stop();
    assert!(!agent.pins().exists(), "an agent that ends in order leaves no pins");
}

#[test]
fn attach_mistakes_are_refused_with_a_reason() {
    let agent = Agent::start();
    let below = agent.cgroup().join("below");
    fs::create_dir(&below).unwrap();
    let say = |words: &[&str]| complaint(ask(&agent, words));
    // A cgroup below one that is served may be a service of its own.
    good(ask(&agent, &["attach", below.to_str().unwrap()]));
    assert!(say(&["attach", below.to_str().unwrap()]).contains("is attached already"));
    good(ask(&agent, &["detach", below.to_str().unwrap()]));
    fs::remove_dir(&below).unwrap();
    let own = fs::read_to_string(format!("/proc/{}/cgroup", agent.pid())).unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let said = say(&["attach", own]);
    assert!(said.contains("the agent itself is in") || said.contains("names no cgroup"), "{said}");
    assert!(say(&["attach", "ssa-test-nowhere"]).contains("there is no cgroup"));
    assert!(say(&["detach", "ssa-test-nowhere"]).contains("is not attached"));
    assert_eq!(list(&agent).len(), 1, "nothing has changed");
}

#[test]
fn agent_of_the_machine_begins_with_nothing() {
    let (pki, server) = server::echo_peer(NAME);
    let cgroup = Cgroup::new("machine");
    let mut agent = Command::new(executable()).args(["run", "--log", "warn"]).spawn().unwrap();
    let path = cgroup.text();
    let socket = Path::new("/run/ssa-agent/machine.sock");
    // Agents of other tests run beside it.
    eventually("it can be found", Duration::from_secs(20), || std::os::unix::net::UnixStream::connect(socket).is_ok());
    eventually("it can be asked", Duration::from_secs(20), || {
        Command::new(executable()).args(["attach", path]).output().unwrap().status.success()
    });
    let script = r#"
port, name, ca = args
sock = tls(name, ca)
out(connect(sock, "127.0.0.1", port)["result"])
"#;
    let app = App::start_by(within(cgroup.path()), script, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(app.finish(), "ok");
    let shown = good(Command::new(executable()).arg("list").output().unwrap());
    assert!(shown.contains(path), "{shown}");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(agent.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert!(agent.wait().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn service_is_attached_at_its_begin_and_let_go_at_its_end() {
    let (pki, server) = server::echo_peer(NAME);
    let prefix = format!("ssa-test-{}-rule", std::process::id());
    let early = Cgroup::new("rule@early.service");
    let units = Config::item("service").set("unit", format!("{prefix}@*.service").as_str());
    let slice = Config::item("service").set("cgroup", format!("/{prefix}.slice/*").as_str());
    let agent = Agent::start_with(units.and(slice));
    let served = |path: &Path| list(&agent).iter().any(|(cgroup, _sockets)| cgroup == path);
    eventually("what was there is attached", Duration::from_secs(5), || served(early.path()));
    let late = Cgroup::new("rule@late.service");
    eventually("a new unit is attached", Duration::from_secs(5), || served(late.path()));
    let slice = Cgroup::new("rule.slice");
    let (one, deep) = (slice.path().join("one"), slice.path().join("one/deep"));
    fs::create_dir_all(&deep).unwrap();
    eventually("a cgroup below a slice is attached", Duration::from_secs(5), || served(&one));
    let other = Cgroup::new("rule.service");

    let script = r#"
port, name, ca = args
sock = tls(name, ca)
out(connect(sock, "127.0.0.1", port)["result"]); wait()
"#;
    let arguments = [server.port(), NAME.to_owned(), pki.ca()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for path in [late.path(), &deep] {
        let mut app = App::start_by(within(path), script, &arguments);
        assert_eq!(app.said(), "ok", "{}", path.display());
        app.kill();
    }
    assert!(!served(&deep), "it is served with the one above it");
    assert!(!served(slice.path()) && !served(other.path()));

    let gone = late.path().to_owned();
    drop(late);
    eventually("a unit that has ended is let go", Duration::from_secs(10), || !served(&gone));
    // One of the same name is another cgroup.
    let again = Cgroup::new("rule@late.service");
    eventually("it is attached when it begins again", Duration::from_secs(5), || served(again.path()));
    fs::remove_dir(deep).unwrap();
    fs::remove_dir(one).unwrap();
}

#[test]
fn service_detached_by_command_stays_detached() {
    let pattern = format!("ssa-test-{}-ruled", std::process::id());
    let agent = Agent::start_with(Config::item("service").set("cgroup", format!("/{pattern}").as_str()));
    let service = Cgroup::new("ruled");
    let is_attached = || list(&agent).iter().any(|(path, _sockets)| path == service.path());
    eventually("the rule attaches it", Duration::from_secs(10), is_attached);
    good(ask(&agent, &["detach", service.text()]));
    // Longer than the agent leaves between two looks at the tree.
    std::thread::sleep(Duration::from_secs(6));
    assert!(!is_attached());
    good(ask(&agent, &["attach", service.text()]));
    assert!(is_attached());
    good(ask(&agent, &["detach", service.text()]));
    // The service begins again, in another cgroup of the same name.
    fs::remove_dir(service.path()).unwrap();
    fs::create_dir(service.path()).unwrap();
    eventually("the rule attaches the new one", Duration::from_secs(10), is_attached);
}

#[test]
fn cgroup_that_is_made_again_is_attached_again() {
    let agent = Agent::start();
    let cgroup = Cgroup::new("again");
    good(ask(&agent, &["attach", cgroup.text()]));
    let path = cgroup.path().to_owned();
    drop(cgroup);
    eventually("it is gone", Duration::from_secs(10), || list(&agent).len() == 1);
    let _again = Cgroup::new("again");
    eventually("it is attached", Duration::from_secs(5), || list(&agent).iter().any(|(cgroup, _)| *cgroup == path));
}

#[test]
fn sockets_made_before_or_elsewhere_are_listed() {
    let agent = Agent::start();
    let service = Cgroup::new("uncaptured");
    let own = r#"
import subprocess
a = socket.socket(); a.bind(("127.0.0.1", 0)); a.listen()
b = socket.socket(); b.connect(a.getsockname()); c, _ = a.accept()
out([a.getsockname()[1], os.getpid()]); wait()
later = socket.socket(); later.bind(("127.0.0.1", 0)); later.listen()
out("later"); wait()
"#;
    let mut app = App::start_by(within(service.path()), own, &[]);
    let before = app.said();
    // Comes into the service with a socket that was made outside of it.
    let outside = r#"
passed = socket.socket(); passed.bind(("127.0.0.1", 0)); passed.listen()
open(args[0] + "/cgroup.procs", "w").write(str(os.getpid()))
out([passed.getsockname()[1], os.getpid()]); wait()
"#;
    let mut other = App::start_by(Command::new("python3"), outside, &[service.text()]);
    let elsewhere = other.said();
    good(ask(&agent, &["attach", service.text()]));
    app.go();
    app.said();
    let listed: Value = serde_json::from_str(&good(ask(&agent, &["list", "--uncaptured", "--json"]))).unwrap();
    let listed = listed.as_array().unwrap();
    let found = |port: &Value, why: &str, listens: bool| {
        let local = format!("127.0.0.1:{port}");
        listed.iter().filter(|one| one["local"] == local && one["why"] == why && one["listens"] == listens).count()
    };
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert_eq!(found(&before[0], "before", true), 1, "{listed:?}");
    // The accepted one has the listener's address.
    assert_eq!(found(&before[0], "before", false), 1, "{listed:?}");
    assert_eq!(found(&elsewhere[0], "elsewhere", true), 1, "{listed:?}");
    assert!(listed.iter().all(|one| one["pid"] == before[1] || one["pid"] == elsewhere[1]), "{listed:?}");
    assert_eq!(good(ask(&agent, &["list", "--uncaptured"])).lines().count(), 5);
    app.go();
    other.go();
    app.finish();
    other.finish();
    good(ask(&agent, &["detach", service.text()]));
}

#[test]
fn services_connect_from_their_own_network_namespaces() {
    let pki = Pki::new();
    let agent = Agent::start();
    let services: Vec<Cgroup> = ["one", "two", "three"].into_iter().map(Cgroup::new).collect();
    let fourth = Cgroup::new("fourth");
    for service in &services {
        good(ask(&agent, &["attach", service.text()]));
    }
    // Two are in network namespaces of their own, where the same address is another server.
    let mut running: Vec<App> = services
        .iter()
        .zip(["alone", "alone", "shared"])
        .enumerate()
        .map(|(number, (service, alone))| {
            let name = format!("peer{number}.ssa.test");
            let (chain, key) = pki.write(&format!("server{number}"), &pki.leaf(Leaf::of(&[&name])));
            App::start_by(within(service.path()), "service_namespaces.py", &[&name, &pki.ca(), &chain, &key, alone])
        })
        .collect();
    // All servers are there before anybody connects: whoever leaves its namespace meets another's.
    running.iter_mut().for_each(|app| drop(app.said()));
    for (app, host) in running.iter_mut().zip(["10.9.0.1", "10.9.0.1", "127.0.0.1"]) {
        app.go();
        assert_eq!(app.said(), json!(["ok", "cba\n", host]));
    }
    let mut plain = App::start_by(
        within(fourth.path()),
        "out(attempt(socket.socket().setsockopt, IPPROTO_TLS, TLS_HOSTNAME, b'x\\0'))",
        &[],
    );
    assert!(is_unserved(&plain.said()));
    for app in &mut running {
        app.go();
    }
    running.into_iter().for_each(|app| drop(app.finish()));
    for service in &services {
        good(ask(&agent, &["detach", service.text()]));
    }
}

#[test]
fn services_are_named_by_unit_container_and_wildcards() {
    let agent = Agent::start();
    let parent = Cgroup::new("named");
    let id = "4c5e0d3f1d5a93a5b0a83b1f8d1c6a554c5e0d3f1d5a93a5b0a83b1f8d1c6a55";
    let names = ["ssa-named@1.service", "ssa-named@2.service", "other.service", &format!("docker-{id}.scope")];
    let paths: Vec<PathBuf> = names.iter().map(|name| parent.path().join(name)).collect();
    paths.iter().for_each(|path| fs::create_dir(path).unwrap());
    let attached = |agent: &Agent| {
        let all = list(agent).into_iter().map(|(path, _sockets)| path);
        all.filter(|path| path != agent.cgroup()).collect::<Vec<_>>()
    };
    good(ask(&agent, &["attach", "--unit", "ssa-named@*.service"]));
    assert_eq!(attached(&agent).len(), 2);
    good(ask(&agent, &["attach", "--container", &id[..12]]));
    assert!(attached(&agent).contains(&paths[3]));
    let pattern = format!("{}/oth*", parent.path().display());
    good(ask(&agent, &["attach", &pattern]));
    assert!(attached(&agent).contains(&paths[2]));
    assert!(complaint(ask(&agent, &["attach", "--unit", "nobody.service"])).contains("there is no such cgroup"));
    assert!(complaint(ask(&agent, &["attach"])).contains("say which"));
    assert!(complaint(ask(&agent, &["detach"])).contains("say which"));
    assert!(
        complaint(ask(&agent, &["attach", "--unit", "a.service", "--container", id])).contains("cannot be used with")
    );
    good(ask(&agent, &["detach", "--container", id]));
    good(ask(&agent, &["detach", &pattern]));
    assert_eq!(attached(&agent).len(), 2);
    good(ask(&agent, &["detach", "--all"]));
    assert_eq!(list(&agent), []);
    for path in &paths {
        fs::remove_dir(path).unwrap();
    }
}
