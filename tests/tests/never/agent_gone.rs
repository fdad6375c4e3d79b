//! Agents that are dead, stopped, or told to stop: nothing connects, nothing leaks.

use std::{thread, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::App,
    eventually,
    pki::{Leaf, Pki},
    sniffer::Sniffer,
};

use crate::canary::*;

#[test]
fn dead_agent_refuses_new_and_old_sockets() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
old = tls(host, ca)
out('set')
wait()
new = socket.socket()
came = [attempt(new.setsockopt, IPPROTO_TLS, TLS_HOSTNAME, text(host)), state(new), error(new)]
for sock in (old, new):
    came += [attempt(sock.connect, ('127.0.0.1', int(port))), error(sock), state(sock)]
    send_regardless(sock)
out(came)"
    );
    let mut app = App::start(&agent, &script, &arguments(&server.port(), &pki.ca()));
    assert_eq!(app.said(), "set");
    agent.kill();
    app.go();
    let text = "the TLS agent is not running";
    assert_eq!(app.said(), json!(["ENOTCONN", 0, text, "ENOTCONN", text, 4, "ENOTCONN", text, 4]));
    assert_eq!(server.accepted(), 0);
    assert_unseen(&sniffer.stop(), &server);
}

#[test]
fn agent_killed_in_mid_handshake_connects_and_leaks_nothing() {
    let pki = Pki::new();
    let server = slow(&pki, Duration::from_millis(700));
    let mut agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
sock = tls(host, ca)
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
out('go')
result = attempt(sock.connect, ('127.0.0.1', int(port)))
send_regardless(sock)
out(result)"
    );
    let mut app = App::start(&agent, &script, &arguments(&server.port(), &pki.ca()));
    assert_eq!(app.said(), "go");
    eventually("the agent has dialled", Duration::from_secs(5), || server.accepted() == 1);
    agent.kill();
    assert_eq!(app.said_within(Duration::from_secs(20)), "ETIMEDOUT", "the kernel's limit of SYNs ends the hold");
    assert_unseen(&sniffer.stop(), &server);
}

#[test]
fn new_agent_takes_over_a_hold_of_the_dead_one() {
    let pki = Pki::new();
    let (chain, _key) = pki.write("unused", &pki.leaf(Leaf::of(&[NAME])));
    let server = slow(&pki, Duration::from_millis(400));
    let mut agent = Agent::start();
    let script = r#"
port, name, chain = args
sock = tls(name)
out("go")
out(connect(sock, "127.0.0.1", port))
"#;
    let mut app = App::start(&agent, script, &[&server.port(), NAME, &chain]);
    assert_eq!(app.said(), "go");
    eventually("the agent has dialled", Duration::from_secs(5), || server.accepted() == 1);
    agent.kill();
    agent.restart();
    // The system does not trust the test's CA: the verdict is a refusal, and it arrives.
    let came = app.said_within(Duration::from_secs(20));
    assert_eq!(came["result"], "EPROTO", "{came}");
}

#[test]
fn agent_killed_while_connected_resets_and_leaks_nothing() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
socks = [tls(host, ca) for _ in range(20)]
for sock in socks:
    sock.connect(('127.0.0.1', int(port)))
    sock.sendall(canary)
    sock.recv(100)
out('connected')
wait()
began = time.monotonic()
ends = [attempt(sock.recv, 100) for sock in socks]
took = time.monotonic() - began
for sock in socks: send_regardless(sock)
again = [attempt(sock.connect, ('127.0.0.1', int(port))) for sock in socks]
out([sorted(set(ends)), took < 1, sorted(set(again))])"
    );
    let mut app = App::start(&agent, &script, &arguments(&server.port(), &pki.ca()));
    assert_eq!(app.said(), "connected");
    agent.kill();
    app.go();
    let came = app.said();
    assert_eq!(came[0], json!(["ECONNRESET"]), "a reset, never an end of file");
    assert_eq!(came[1], true, "within a second");
    assert_eq!(came[2], json!(["EISCONN"]), "as the kernel says of any socket that was connected");
    assert_unseen(&sniffer.stop(), &server);
}

#[test]
fn stopped_agent_connects_nothing_until_it_goes_on() {
    let (pki, server) = echo();
    let agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
short = tls(host, ca)
short.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
long = tls(host, ca)
out('go'); wait()
long.setblocking(False)
came = [attempt(long.connect, ('127.0.0.1', int(port))), attempt(short.connect, ('127.0.0.1', int(port)))]
send_regardless(short)
out(came); wait()
poller = select.poll(); poller.register(long, select.POLLOUT)
poller.poll(20000)
out([name(long.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))])"
    );
    let mut app = App::start(&agent, &script, &arguments(&server.port(), &pki.ca()));
    assert_eq!(app.said(), "go");
    agent.signal(Signal::SIGSTOP);
    app.go();
    assert_eq!(app.said_within(Duration::from_secs(30)), json!(["EINPROGRESS", "ETIMEDOUT"]));
    assert_eq!(server.accepted(), 0);
    agent.signal(Signal::SIGCONT);
    app.go();
    assert_eq!(app.said_within(Duration::from_secs(30)), json!(["ok"]));
    assert_unseen(&sniffer.stop(), &server);
}

#[test]
fn stopping_agent_waits_for_open_tls_sockets() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let script = format!(
        "{SEND_CANARY}
fresh, connected = tls(host, ca), tls(host, ca)
connected.connect(('127.0.0.1', int(port)))
out('open'); wait()
end = attempt(connected.recv, 10)
came = [end, attempt(fresh.connect, ('127.0.0.1', int(port))), attempt(connected.connect, ('127.0.0.1', int(port)))]
send_regardless(fresh)
out(came); wait()
fresh.close(); connected.close()
out('closed'); wait()"
    );
    let sniffer = Sniffer::start();
    let mut app = App::start(&agent, &script, &arguments(&server.port(), &pki.ca()));
    assert_eq!(app.said(), "open");
    agent.signal(Signal::SIGTERM);
    eventually("it says what it waits for", Duration::from_secs(5), || agent.log().contains("still open"));
    app.go();
    assert_eq!(app.said(), json!(["ECONNRESET", "ENOTCONN", "EISCONN"]));
    assert!(agent.pins().exists(), "the guards are attached while a TLS socket is open");
    app.go();
    assert_eq!(app.said(), "closed");
    agent.wait_for_end();
    assert!(!agent.pins().exists(), "nothing is left attached");
    assert_unseen(&sniffer.stop(), &server);
}

#[test]
fn second_signal_ends_the_agent_and_leaves_the_guards() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let script = format!(
        "{SEND_CANARY}
sock = tls(host, ca)
out('open'); wait()
came = attempt(sock.connect, ('127.0.0.1', int(port)))
send_regardless(sock)
out(came); wait()"
    );
    let mut app = App::start(&agent, &script, &arguments(&server.port(), &pki.ca()));
    assert_eq!(app.said(), "open");
    agent.signal(Signal::SIGINT);
    eventually("it says what it waits for", Duration::from_secs(5), || agent.log().contains("still open"));
    agent.signal(Signal::SIGINT);
    agent.wait_for_end();
    app.go();
    assert_eq!(app.said(), "ENOTCONN");
    assert_eq!(server.accepted(), 0);
    assert!(agent.pins().exists());
}

#[test]
fn restarted_agent_never_forgets_what_was_trusted() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let script = r#"
port, name, ca = args
by_path, by_text = tls(name, ca), tls(name, open(ca).read())
out("set"); wait()
came = [connect(by_path, "127.0.0.1", port), connect(by_text, "127.0.0.1", port)]
came.append(attempt(by_text.setsockopt, IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, text(ca)))
came.append(connect(by_text, "127.0.0.1", port))
fresh = tls(name, ca)
came.append(connect(fresh, "127.0.0.1", port))
out(came)
"#;
    let mut app = App::start(&agent, script, &arguments(&server.port(), &pki.ca()));
    assert_eq!(app.said(), "set");
    // The agent has taken the certificates. What is a text it takes with it; paths are kept.
    thread::sleep(Duration::from_millis(300));
    agent.kill();
    agent.restart();
    app.go();
    let came = app.said();
    assert_eq!(came[0]["result"], "ok", "{came}");
    assert_eq!(came[1]["result"], "EPROTO", "not verified by the system's store instead: {came}");
    assert!(came[1]["error"].as_str().unwrap().contains("set them again"), "{came}");
    assert_eq!(came[2], "ok");
    assert_eq!(came[3]["result"], "ok", "{came}");
    assert_eq!(came[4]["result"], "ok", "{came}");
}

#[test]
fn stopping_agent_refuses_held_connects() {
    let pki = Pki::new();
    let server = slow(&pki, Duration::from_secs(20));
    let agent = Agent::start_with("[time]\nhandshake_seconds = 30\n");
    let script = r#"
port, name, ca = args
sock = tls(name, ca)
out("go")
came = connect(sock, "127.0.0.1", port)
sock.close()
out([came["result"], came["error"]])
"#;
    let mut app = App::start(&agent, script, &arguments(&server.port(), &pki.ca()));
    assert_eq!(app.said(), "go");
    eventually("the agent has dialled", Duration::from_secs(5), || server.accepted() == 1);
    agent.signal(Signal::SIGTERM);
    assert_eq!(app.said_within(Duration::from_secs(5)), json!(["EHOSTUNREACH", "the TLS agent ends"]));
}
