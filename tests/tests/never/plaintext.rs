//! What must never happen: plaintext on the wire, a peer that is not the peer, an end of file that
//! nobody sent, trouble for other sockets. With the agent alive, dead, stopped, detached, and with
//! others in its place.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{App, python},
    eventually,
    pki::{Leaf, Pki},
    server::{self, Server},
    sniffer::{self, Sniffer},
};

const NAME: &str = "peer.ssa.test";
const CANARY: &[u8] = b"canary-7f3a91c2-must-not-be-seen";

fn echo() -> (Pki, Server) {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    (pki, server)
}

/// A TLS server whose handshakes take this long.
fn slow(pki: &Pki, delay: Duration) -> Server {
    let context = server::context(&pki.leaf(Leaf::of(&[NAME])));
    Server::tcp("127.0.0.1", move |stream| {
        thread::sleep(delay);
        if let Some(stream) = server::handshake(&context, stream) {
            server::echo(stream);
        }
    })
}

/// Fails if a packet from or to the server's port holds the canary.
fn assert_unseen(packets: &[Vec<u8>], server: &Server) {
    let port = server.addr.port();
    let of_server: Vec<_> = packets
        .iter()
        .filter(|packet| sniffer::ports(packet).is_some_and(|(from, to)| from == port || to == port))
        .collect();
    let seen = of_server.iter().filter(|packet| sniffer::holds(packet, CANARY)).count();
    assert_eq!(seen, 0, "plaintext in {seen} of {} packets of the server's port", of_server.len());
}

const SEND_CANARY: &str = r#"
port, name, ca = args
canary = b"canary-7f3a91c2-must-not-be-seen"
def send_regardless(sock):
    """What a program does that looks at no error."""
    try: sock.sendall(canary * 10)
    except OSError: pass
"#;

fn arguments<'a>(server: &'a str, ca: &'a str) -> [&'a str; 3] {
    [server, NAME, ca]
}

#[test]
fn sniffer_sees_plaintext_where_there_is_some() {
    // The test of the tests: a plain socket's canary is found.
    let server = Server::tcp("127.0.0.1", |mut stream| {
        let _read = stream.read(&mut [0; 4096]);
    });
    let sniffer = Sniffer::start();
    std::net::TcpStream::connect(server.addr).unwrap().write_all(CANARY).unwrap();
    thread::sleep(Duration::from_millis(100));
    let packets = sniffer.stop();
    assert!(packets.iter().any(|packet| sniffer::holds(packet, CANARY)
        && sniffer::ports(packet).is_some_and(|(_from, to)| to == server.addr.port())));
}

#[test]
fn live_connection_shows_no_plaintext_to_the_peer() {
    let (pki, server) = echo();
    let agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
sock = tls(name, ca)
sock.connect(('127.0.0.1', int(port)))
sock.sendall(canary)
out(sock.recv(100) == canary)"
    );
    assert_eq!(python(&agent, &script, &arguments(&server.port(), &pki.ca())), true);
    let packets = sniffer.stop();
    assert!(packets.len() > 20, "the sniffer works");
    assert_unseen(&packets, &server);
}

#[test]
fn dead_agent_refuses_new_and_old_sockets() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
old = tls(name, ca)
out('set')
wait()
new = socket.socket()
came = [attempt(new.setsockopt, IPPROTO_TLS, HOSTNAME, text(name)), state(new), error(new)]
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
fn agent_killed_in_mid_handshake_leaks_nothing_and_connects_nothing() {
    let pki = Pki::new();
    let server = slow(&pki, Duration::from_millis(700));
    let mut agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
sock = tls(name, ca)
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
socks = [tls(name, ca) for _ in range(20)]
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
short = tls(name, ca)
short.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
long = tls(name, ca)
out('go'); wait()
long.setblocking(False)
came = [attempt(long.connect, ('127.0.0.1', int(port))), attempt(short.connect, ('127.0.0.1', int(port)))]
send_regardless(short)
out(came); wait()
poller = select.poll(); poller.register(long, select.POLLOUT)
poller.poll(20000)
out([name_of_error(long)])"
    )
    .replace("name_of_error(long)", "name(long.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))")
    .replace("port, name, ca = args", "port, host, ca = args")
    .replace("tls(name", "tls(host");
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
fn agent_that_is_told_to_stop_waits_for_open_tls_sockets() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let script = format!(
        "{SEND_CANARY}
fresh, connected = tls(name, ca), tls(name, ca)
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
sock = tls(name, ca)
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
fn refused_option_makes_a_socket_that_never_speaks_plaintext() {
    let (pki, server) = echo();
    let agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
came = []
for option, value in ((101, 1), (102, 2), (HOSTNAME, b'no nul'), (HOSTNAME, b'.test\\0'), (999, 1), (CONTEXT, b'12345678')):
    sock = socket.socket()
    came.append([attempt(sock.setsockopt, IPPROTO_TLS, option, value), attempt(sock.connect, ('127.0.0.1', int(port)))])
    send_regardless(sock)
out(came)"
    );
    let came = python(&agent, &script, &arguments(&server.port(), &pki.ca()));
    let expected = json!([
        ["ENOPROTOOPT", "EPROTO"],
        ["EINVAL", "EPROTO"],
        ["EINVAL", "EPROTO"],
        ["EINVAL", "EPROTO"],
        ["ENOPROTOOPT", "EPROTO"],
        ["EINVAL", "EPROTO"]
    ]);
    assert_eq!(came, expected);
    assert_eq!(server.accepted(), 0);
    assert_unseen(&sniffer.stop(), &server);
}

#[test]
fn mptcp_and_smc_sockets_refuse_the_options() {
    let plain = Server::tcp("127.0.0.1", |mut stream| {
        let _read = stream.read(&mut [0; 100]);
    });
    let agent = Agent::start();
    let script = r#"
port, = args
came = {}
for kind, (family, protocol) in {"mptcp": (socket.AF_INET, 262), "mptcp6": (socket.AF_INET6, 262), "smc": (43, 0)}.items():
    try: sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    except OSError: continue
    came[kind] = [attempt(sock.setsockopt, IPPROTO_TLS, HOSTNAME, b"peer.ssa.test\0")]
    if kind == "smc": continue
    host = "::ffff:127.0.0.1" if kind == "mptcp6" else "127.0.0.1"
    came[kind].append(attempt(sock.connect, (host, int(port))))
    came[kind].append(attempt(sock.sendto, b"x", 0x20000000, (host, int(port))))
    # One on which nothing was tried is left alone.
    other = socket.socket(family, socket.SOCK_STREAM, protocol)
    came[kind].append(attempt(other.connect, (host, int(port))))
out(came)
"#;
    let came = python(&agent, script, &[&plain.port()]);
    for kind in ["mptcp", "mptcp6"] {
        assert_eq!(
            json!([came[kind][0], came[kind][1], came[kind][3]]),
            json!(["ENOPROTOOPT", "EPROTO", "ok"]),
            "{came}"
        );
        // Before 6.2 the kernel itself knows no Fast Open for MPTCP.
        assert!(came[kind][2] == "EPROTO" || came[kind][2] == "EOPNOTSUPP", "{came}");
    }
    assert!(came.get("smc").is_none_or(|errnos| errnos == &json!(["ENOPROTOOPT"])), "{came}");
    eventually("both of the others are there, and nobody else", Duration::from_secs(5), || plain.accepted() == 2);
}

#[test]
fn fast_open_never_gets_ahead_of_the_verdict() {
    let (pki, server) = echo();
    let stranger = Pki::new();
    let bad = Server::echo("127.0.0.1", &stranger.leaf(Leaf::of(&[NAME])));
    let agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
FASTOPEN_CONNECT, MSG_FASTOPEN = 30, 0x20000000
came = []
before = socket.socket()
before.setsockopt(socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1)
before.setsockopt(IPPROTO_TLS, HOSTNAME, text(name))
came.append(attempt(before.connect, ('127.0.0.1', int(port))))
after = tls(name, ca)
came.append(attempt(after.setsockopt, socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1))
came.append(attempt(after.connect, ('127.0.0.1', int(port))))
good, bad = tls(name, ca), tls(name, ca)
came.append(attempt(good.sendto, canary, MSG_FASTOPEN, ('127.0.0.1', int(port))))
came.append(good.recv(100) == canary)
came.append(attempt(bad.sendto, canary, MSG_FASTOPEN, ('127.0.0.1', int(args_bad))))
plain = socket.socket()
came.append(attempt(plain.setsockopt, socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1))
out(came)"
    )
    .replace("port, name, ca = args", "port, name, ca, args_bad = args");
    let came = python(&agent, &script, &[&server.port(), NAME, &pki.ca(), &bad.port()]);
    assert_eq!(came, json!(["EOPNOTSUPP", "EOPNOTSUPP", "ok", "ok", true, "EPROTO", "ok"]));
    let packets = sniffer.stop();
    assert_unseen(&packets, &server);
    assert_unseen(&packets, &bad);
}

#[test]
fn process_that_takes_the_virtual_address_gets_nothing() {
    let pki = Pki::new();
    let server = slow(&pki, Duration::from_millis(1200));
    let agent = Agent::start();
    // While the SYN is held, another process (outside the cgroup, as root even) binds the address
    // that the application connects to, listens there, and connects to the application's port: TCP's
    // simultaneous open would make the two a connection.
    let script = format!(
        "{SEND_CANARY}
sock = tls(name, ca)
sock.bind(('127.0.0.1', 0))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 2)
out(sock.getsockname()[1])
came = attempt(sock.connect, ('127.0.0.1', int(port)))
send_regardless(sock)
out([came, state(sock)])"
    );
    let mut app = App::start(&agent, &script, &arguments(&server.port(), &pki.ca()));
    let port = u16::try_from(app.said().as_u64().unwrap()).unwrap();
    let mut target = None;
    eventually("the SYN is held", Duration::from_secs(5), || {
        target = syn_sent_to(port);
        target.is_some()
    });
    let target = std::net::SocketAddr::from(target.unwrap());
    let attacker = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    attacker.set_reuse_address(true).unwrap();
    attacker.bind(&target.into()).unwrap();
    attacker.set_nonblocking(true).unwrap();
    let _in_progress = attacker.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into());
    thread::sleep(Duration::from_millis(2500));
    attacker.set_nonblocking(false).unwrap();
    attacker.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut stolen = Vec::new();
    let _nothing = (&attacker).take(4096).read_to_end(&mut stolen);
    assert!(stolen.is_empty(), "the attacker got {} bytes", stolen.len());
    drop(attacker);
    // Without the attacker in its way the connect may still succeed, with the real peer.
    let came = app.said_within(Duration::from_secs(60));
    assert!(came[0] != "ok" || came[1] == 2, "{came}");
}

/// Where the socket at 127.0.0.1:`port` is connecting to, from /proc/net/tcp.
fn syn_sent_to(port: u16) -> Option<([u8; 4], u16)> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let local = words.get(1)?.split_once(':')?;
        if u16::from_str_radix(local.1, 16).ok()? != port || *words.get(3)? != "02" {
            return None;
        }
        let (addr, port) = words.get(2)?.split_once(':')?;
        let addr = u32::from_str_radix(addr, 16).ok()?.to_ne_bytes();
        Some((addr, u16::from_str_radix(port, 16).ok()?))
    })
}

#[test]
fn connection_that_was_not_resumed_is_not_taken() {
    let (pki, server) = echo();
    let agent = Agent::start();
    python(
        &agent,
        "port, name, ca = args\nconnect(tls(name, ca), '127.0.0.1', port)\nout(1)",
        &arguments(&server.port(), &pki.ca()),
    );
    // The virtual addresses are nobody's, and the agent's own listener resets strangers.
    assert!(std::net::TcpStream::connect("127.205.1.2:7").is_err());
    let listeners = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
    assert!(listeners > 0);
    let port = own_listener(&agent);
    // The reset may come before `connect` has returned.
    let end = std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut stranger| {
        stranger.set_read_timeout(Some(ssa_tests::long(Duration::from_secs(2))))?;
        stranger.read(&mut [0; 10])
    });
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// The port of the agent's listener on 127.0.0.1.
fn own_listener(agent: &Agent) -> u16 {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table
        .lines()
        .find_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let listens = *words.get(3)? == "0A" && inodes.iter().any(|inode| words.get(9) == Some(&inode.as_str()));
            let port = u16::from_str_radix(words.get(1)?.split_once(':')?.1, 16).ok()?;
            listens.then_some(port)
        })
        .expect("the agent listens")
}

#[test]
fn plain_sockets_of_the_cgroup_are_left_alone() {
    let mut agent = Agent::start();
    let server = Server::tcp("127.0.0.1", |mut stream| {
        let mut buffer = [0; 100];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            let _gone = stream.write_all(&buffer[..read]);
        }
    });
    let script = r#"
port, = args
def work():
    sock = socket.create_connection(("127.0.0.1", int(port)))
    sock.sendall(b"plain")
    listener = socket.create_server(("127.0.0.1", 0))
    second = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    second.sendall(b"there")
    return [sock.recv(10).decode(), accepted.recv(10).decode(), sock.getpeername()[1] == int(port)]
out(work()); wait()
out(work())
"#;
    let mut app = App::start(&agent, script, &[&server.port()]);
    assert_eq!(app.said(), json!(["plain", "there", true]));
    agent.kill();
    app.go();
    assert_eq!(app.said(), json!(["plain", "there", true]), "with the agent dead, too");
}

#[test]
fn restarted_agent_serves_and_never_forgets_what_was_trusted() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let script = r#"
port, name, ca = args
by_path, by_text = tls(name, ca), tls(name, open(ca).read())
out("set"); wait()
came = [connect(by_path, "127.0.0.1", port), connect(by_text, "127.0.0.1", port)]
came.append(attempt(by_text.setsockopt, IPPROTO_TLS, TRUSTED, text(ca)))
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
fn second_agent_for_a_cgroup_is_refused() {
    let agent = Agent::start();
    let output = std::process::Command::new(ssa_tests::agent::program())
        .args(["run", "--cgroup"])
        .arg(agent.cgroup())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("another agent serves this cgroup"), "{said}");
}

#[test]
fn nested_cgroup_is_not_attached_twice() {
    let agent = Agent::start();
    let inner = agent.cgroup().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let output =
        std::process::Command::new(ssa_tests::agent::program()).args(["run", "--cgroup"]).arg(&inner).output().unwrap();
    std::fs::remove_dir(&inner).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("is attached already"), "{said}");
}

#[test]
fn held_connects_are_refused_when_the_agent_is_told_to_stop() {
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

#[test]
fn long_values_of_other_options_reach_the_kernel() {
    let agent = Agent::start();
    let script = r#"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
sock = socket.socket()
value = ctypes.create_string_buffer(struct.pack("i", 1 << 16) + b"\0" * 8188, 8192)
size = ctypes.c_uint32(8192)
came = [libc.setsockopt(sock.fileno(), socket.SOL_SOCKET, socket.SO_RCVBUF, value, 8192)]
came += [libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, socket.SO_RCVBUF, value, ctypes.byref(size)), size.value]
out(came + [struct.unpack("i", value.raw[:4])[0] >= 1 << 16])
"#;
    assert_eq!(python(&agent, script, &[]), json!([0, 0, 4, true]));
}

#[test]
fn path_is_opened_with_the_rights_of_the_program() {
    let (pki, server) = echo();
    let secret = pki.folder().join("secret.pem");
    std::fs::copy(pki.ca(), &secret).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let hidden = pki.folder().join("hidden");
    std::fs::create_dir(&hidden).unwrap();
    std::fs::set_permissions(&hidden, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::copy(pki.ca(), hidden.join("there.pem")).unwrap();
    let agent = Agent::start();
    let script = r#"
port, name, folder = args
os.chdir(folder)
as_root = connect(tls(name, "secret.pem"), "127.0.0.1", port)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
came = [as_root["result"]]
for path in ("ca.pem", folder + "/ca.pem", "secret.pem", "hidden/there.pem", "hidden/absent.pem"):
    result = connect(tls(name, path), "127.0.0.1", port)
    came.append([result["result"], result["error"].split(": ")[-1]])
out(came)
"#;
    let came = python(&agent, script, &[&server.port(), NAME, &pki.folder().to_string_lossy()]);
    let denied = json!(["EPROTO", "Permission denied (os error 13)"]);
    assert_eq!(
        came,
        json!(["ok", ["ok", ""], ["ok", ""], denied, denied, denied]),
        "and nothing tells there from absent"
    );
}
