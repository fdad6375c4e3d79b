//! Many times over: nothing leaks, and no refusal is lost.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{App, python},
    eventually, few,
    pki::{Leaf, Pki},
    server::{self, Server},
    slow_machine,
};

const NAME: &str = "peer.ssa.test";

fn echo() -> (Agent, Pki, Server) {
    let (pki, server) = server::echo_peer(NAME);
    (Agent::start(), pki, server)
}

#[test]
fn five_thousand_connections_leak_nothing() {
    let (agent, pki, server) = echo();
    let script = r#"
port, host, ca = args
def turn(number):
    sock = tls(host, ca)
    sock.connect(("127.0.0.1", int(port)))
    sock.sendall(b"x"); sock.recv(1)
    if number % 3 == 0: sock.shutdown(socket.SHUT_WR); sock.recv(1)
    sock.close()
def descriptors(): return len(os.listdir("/proc/self/fd"))
for number in range(500 // FEWER): turn(number)
before = descriptors()
out(before); wait()
for number in range(5000 // FEWER): turn(number)
out(descriptors()); wait()
"#;
    let mut app = App::start(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    let before = app.said();
    eventually("all is quiet", Duration::from_secs(10), || agent.entries("CONNECTIONS") == 0);
    let (descriptors, memory) = (agent.descriptors(), agent.memory_kib());
    app.go();
    assert_eq!(app.said(), before, "the application's own descriptors");
    for map in ["CONNECTIONS", "CONTEXTS", "BLOBS"] {
        eventually(&format!("{map} is empty"), Duration::from_secs(10), || agent.entries(map) == 0);
    }
    eventually("descriptors are back", Duration::from_secs(10), || agent.descriptors() <= descriptors);
    let grown = agent.memory_kib().saturating_sub(memory);
    // A byte a connection would be 5 KiB; the allocator's own ups and downs are more.
    assert!(grown < 4096, "the agent grew by {grown} KiB in 5,000 connections");
}

#[test]
fn ten_thousand_refusals_reach_a_busy_socket() {
    let pki = Pki::new();
    let stranger = Pki::new();
    let server = Server::echo("127.0.0.1", &stranger.leaf(Leaf::of(&[NAME])));
    let agent = Agent::start_quiet();
    let came = python(&agent, "refusals.py", &[&server.port(), NAME, &pki.ca()]);
    println!("refusals: {came}");
    assert_eq!(came[0], json!({"EPROTO": few(10_000)}), "{came}");
    // Two cores are shared by five busy processes, so that single ones wait longer for their turn. But
    // were refusals lost, a fifth of them would wait for the next SYN, a second.
    assert!(came[1].as_u64().unwrap() <= if slow_machine() { 200 } else { 100 }, "{came}");
}

#[test]
fn close_during_a_hold_ends_the_dial() {
    let pki = Pki::new();
    let ended: ssa_tests::server::Shared<usize> = Default::default();
    let count = std::sync::Arc::clone(&ended);
    let server = Server::tcp("127.0.0.1", move |mut stream| {
        // Never answers; notices when the agent gives up.
        use std::io::Read as _;
        while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
        *count.lock().unwrap() += 1;
    });
    let agent = Agent::start_with("[time]\nhandshake_seconds = 30\n");
    let script = r#"
port, host, ca = args
for turn in range(100):
    sock = tls(host, ca)
    sock.setblocking(False)
    assert attempt(sock.connect, ("127.0.0.1", int(port))) == "EINPROGRESS"
    if turn % 2: time.sleep(0.005)
    sock.close()
out(1)
"#;
    // Those of a namespace that is served are there to stay. They are all there when the peer has been dialled.
    let first = r#"
port, host, ca = args
sock = tls(host, ca)
sock.setblocking(False)
out(attempt(sock.connect, ("127.0.0.1", int(port)))); wait()
sock.close()
"#;
    let mut app = App::start(&agent, first, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(app.said(), "EINPROGRESS");
    eventually("the peer is dialled", Duration::from_secs(5), || server.accepted() == 1);
    app.go();
    app.finish();
    eventually("the dial has ended", Duration::from_secs(5), || *ended.lock().unwrap() == 1);
    eventually("nothing is left of it", Duration::from_secs(5), || agent.entries("CONNECTIONS") == 0);
    let before = agent.descriptors();
    python(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    eventually("no dial is left", Duration::from_secs(5), || *ended.lock().unwrap() == server.accepted());
    eventually("no connection is left", Duration::from_secs(5), || agent.entries("CONNECTIONS") == 0);
    eventually("all descriptors are closed", Duration::from_secs(5), || agent.descriptors() < before + 10);
}

#[test]
fn killed_application_leaves_nothing_behind() {
    let (agent, pki, server) = echo();
    let script = r#"
port, host, ca = args
keep = []
for turn in range(50):
    sock = tls(host, ca)
    if turn % 2: sock.connect(("127.0.0.1", int(port)))
    keep.append(sock)
out(1); wait()
"#;
    let mut app = App::start(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    app.said();
    assert_eq!(agent.entries("CONTEXTS"), 50);
    app.kill();
    for map in ["CONNECTIONS", "CONTEXTS", "BLOBS"] {
        eventually(&format!("{map} is empty"), Duration::from_secs(5), || agent.entries(map) == 0);
    }
}

#[test]
fn namespaces_that_come_and_go_leave_nothing_behind() {
    let (agent, pki, server) = echo();
    let mut app = App::start(&agent, "namespaces.py", &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(app.said(), "first");
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.starts_with("netns-")).count()
    };
    let descriptors = agent.descriptors();
    app.go();
    assert_eq!(app.said_within(Duration::from_secs(120)), "over");
    eventually("the agent has let go of the namespaces", Duration::from_secs(30), || threads() <= 1);
    eventually("descriptors return", Duration::from_secs(10), || agent.descriptors() <= descriptors + 2);
    // Its own is made anew.
    app.go();
    assert_eq!(app.finish(), "ok");
}

#[test]
fn applications_killed_in_connect_leave_nothing_behind() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let agent = Agent::start();
    let server = Server::echo("127.0.0.1", &leaf);
    let before = agent.descriptors();
    let script = r#"
name_, ca, port = args
out(0)
while True: connect(tls(name_, ca), "127.0.0.1", int(port))
"#;
    for _time in 0..ssa_tests::few(60) {
        let mut app = App::start(&agent, script, &[NAME, &pki.ca(), &server.port()]);
        app.said();
        std::thread::sleep(Duration::from_millis(20));
        // Whoever is in the cgroup at this moment: the sockets' makers too.
        fs::write(agent.cgroup().join("cgroup.kill"), "1").unwrap();
        app.kill();
    }
    // One more for the cgroup file system. Namespaces are let go after ten seconds.
    let deadline = Instant::now() + ssa_tests::long(Duration::from_secs(30));
    while agent.descriptors() > before + 1 {
        let links = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().flatten();
        let open: Vec<_> = links.filter_map(|link| fs::read_link(link.path()).ok()).collect();
        assert!(Instant::now() < deadline, "{before} descriptors became {}: {open:?}", open.len());
        std::thread::sleep(Duration::from_millis(100));
    }
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.pid())).unwrap_or_default();
    assert_eq!(children.trim(), "");
    let came = python(
        &agent,
        "name_, ca, port = args\nout(connect(tls(name_, ca), '127.0.0.1', int(port)))",
        &[NAME, &pki.ca(), &server.port()],
    );
    assert_eq!(came["result"], "ok", "{came}");
    let zombies = Command::new("ps").args(["-o", "stat=", "--ppid", &agent.pid().to_string()]).output().unwrap();
    assert!(!String::from_utf8_lossy(&zombies.stdout).contains('Z'));
}
