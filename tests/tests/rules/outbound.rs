//! Rules for what goes out: TLS, or no connection; denied, reloaded, and with the agent dead.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{App, python},
    config::Config,
    pki::{Leaf, Pki},
    server::{self, Server, closed_port},
    sniffer::{Sniffer, holds},
};

use crate::fixture::*;

#[test]
fn plain_application_speaks_tls_and_others_are_left_alone() {
    let (pki, server) = echo();
    let agent = Agent::start_with(out(server.addr.port(), &pki));
    let sniffer = Sniffer::start();
    let said = python(&agent, &format!("{TALK}\nout(talk())"), &[&server.port()]);
    assert_eq!(said, json!(["canary-in-plain-sight", true]));
    let packets = sniffer.stop();
    let port = server.addr.port();
    let between =
        |packet: &&Vec<u8>| ssa_tests::sniffer::ports(packet).is_some_and(|(from, to)| from == port || to == port);
    assert!(packets.iter().any(|packet| between(&packet)));
    assert!(!packets.iter().filter(between).any(|packet| holds(packet, b"canary")));
    // Outside the service the port is what it is, and inside another port is.
    let mut plain = TcpStream::connect(server.addr).unwrap();
    plain.write_all(b"hello\r\n\r\n").unwrap();
    let mut answer = [0; 1];
    let read = plain.read(&mut answer).unwrap_or(0);
    assert!(read == 0 || answer[0] == 21, "an alert, not an echo");
    let other =
        Server::tcp("127.0.0.1", |mut stream| drop(std::io::copy(&mut stream.try_clone().unwrap(), &mut stream)));
    let said = python(&agent, &format!("{TALK}\nout(talk())"), &[&other.port()]);
    assert_eq!(said, json!(["canary-in-plain-sight", true]));
}

#[test]
fn peer_that_is_not_the_rules_name_is_refused() {
    let pki = Pki::new();
    let context = server::context(&pki.leaf(Leaf::of(&["other.ssa.test"])));
    let server = Server::tls("127.0.0.1", context, server::echo);
    let agent = Agent::start_with(out(server.addr.port(), &pki));
    let said = python(&agent, &format!("{TALK}\nout(talk())"), &[&server.port()]);
    assert_eq!(said, json!("EPROTO"));
}

#[test]
fn rule_holds_while_the_agent_is_dead_and_afterwards() {
    let (pki, server) = echo();
    let mut agent = Agent::start_with(out(server.addr.port(), &pki));
    let sniffer = Sniffer::start();
    let script = format!("{TALK}\nwhile True: wait(); out(talk())");
    let mut app = App::start(&agent, &script, &[&server.port()]);
    app.go();
    assert_eq!(app.said(), json!(["canary-in-plain-sight", true]));
    agent.kill();
    app.go();
    assert_eq!(app.said(), json!("ENOTCONN"));
    agent.restart();
    app.go();
    assert_eq!(app.said(), json!(["canary-in-plain-sight", true]));
    assert!(!sniffer.stop().iter().any(|packet| leaks(packet, server.addr.port())));
}

#[test]
fn denied_destinations_are_refused_whatever_the_protocol() {
    let range =
        Config::rule("no").outbound().set("address", "127.0.0.0/8").set("port", "1000-1999").set("mode", "deny");
    let datagrams = Config::rule("no datagrams").to_port(443).set("protocol", "udp").set("mode", "deny");
    let one = Config::rule("but one").to("127.0.0.1", 1500).set("mode", "plain");
    let config = range.and(datagrams).and(one);
    let agent = Agent::start_with(config);
    let said = python(&agent, "denied.py", &[]);
    let refused = "ECONNREFUSED";
    assert_eq!(said, json!(["EACCES", "EACCES", "EACCES", refused, refused, "EACCES", "EACCES", "EACCES", null, null]));
}

/// `::/0` is the empty prefix, and IPv4 addresses are v4-mapped in the hooks.
#[test]
fn plain_rule_for_ipv6_leaves_ipv4_to_the_rule_that_asks_for_tls() {
    let (pki, server) = echo();
    let plain = Server::tcp("::1", |mut stream| drop(stream.write_all(b"plain")));
    let tls = Config::rule("tls").outbound().hostname(NAME).trust_only(&pki.ca());
    let config = tls.and(Config::rule("ipv6").outbound().set("address", "::/0").set("mode", "plain"));
    let agent = Agent::start_with(config);
    let sniffer = Sniffer::start();
    let script = format!(
        r#"{TALK}
mapped = socket.socket(socket.AF_INET6)
mapped.connect(("::ffff:127.0.0.1", int(args[0]))); mapped.sendall(b"canary-in-plain-sight")
v6 = socket.create_connection(("::1", int(args[1])))
out([talk(), mapped.recv(100).decode(), v6.recv(10).decode()])
"#
    );
    let said = python(&agent, &script, &[&server.port(), &plain.port()]);
    assert_eq!(said, json!([["canary-in-plain-sight", true], "canary-in-plain-sight", "plain"]));
    assert!(!sniffer.stop().iter().any(|packet| leaks(packet, server.addr.port())));
}

#[test]
fn socket_goes_by_the_rule_for_each_destination() {
    let (pki, server) = echo();
    let plain = Server::tcp("127.0.0.1", |mut stream| {
        let _gone = stream.write_all(b"plain");
        let _gone = stream.read(&mut [0; 10]);
    });
    let agent = Agent::start_with(out(server.addr.port(), &pki));
    let script = r#"
tls, plain, closed = (int(arg) for arg in args)
AF_UNSPEC = b"\0" * 16
import ctypes
libc = ctypes.CDLL(None)
sock = socket.socket()
sock.connect(("127.0.0.1", tls)); sock.sendall(b"one"); said = [sock.recv(10).decode()]
libc.connect(sock.fileno(), AF_UNSPEC, 16)
sock.connect(("127.0.0.1", plain)); said.append(sock.recv(10).decode())
try: sock.getsockopt(IPPROTO_TLS, TLS_STATE, 4)
except OSError as error: said.append(errno.errorcode[error.errno])
libc.connect(sock.fileno(), AF_UNSPEC, 16)
sock.connect(("127.0.0.1", tls)); sock.sendall(b"two"); said.append(sock.recv(10).decode())
said.append(int.from_bytes(sock.getsockopt(IPPROTO_TLS, TLS_STATE, 4), "little"))
out(said)
"#;
    let said = python(&agent, script, &[&server.port(), &plain.port(), "0"]);
    assert_eq!(said, json!(["one", "plain", "ENOPROTOOPT", "two", 2]));
}

#[test]
fn new_cgroup_is_held_until_it_is_decided_on() {
    let (pki, server) = echo();
    let mut agent = Agent::start_with(out(server.addr.port(), &pki));
    let cgroup = agent.cgroup().to_string_lossy().into_owned();
    let mut app = App::start(&agent, "new_cgroup.py", &[&server.port(), &cgroup]);
    assert_eq!(app.said(), json!(["canary-in-plain-sight", true]));
    agent.kill();
    app.go();
    assert_eq!(app.said(), json!(["ENOTCONN", 0]), "what no rule could want goes on");
    app.finish();
}

#[test]
fn options_of_an_application_win_over_the_rule() {
    let (pki, server) = echo();
    let agent = Agent::start_with(out(server.addr.port(), &pki));
    let script = r#"
port, name, ca = args
def code(call):
    try: call()
    except OSError as error: return errno.errorcode[error.errno]
bare = socket.socket()
bare.setsockopt(IPPROTO_TLS, TLS_ALPN, b"h2\0")
wrong = tls("wrong.ssa.test", ca)
right = tls(name, ca)
out([code(lambda sock=sock: sock.connect(("127.0.0.1", int(port)))) for sock in (bare, wrong, right)])
"#;
    let said = python(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(said, json!(["EPROTO", "EPROTO", null]));
}

#[test]
fn reload_puts_rules_in_force_and_takes_them_back() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let script = format!("{TALK}\nwhile True: wait(); out(talk())");
    let mut app = App::start(&agent, &script, &[&server.port()]);
    let mut ask = || {
        app.go();
        app.said()
    };
    assert_ne!(ask(), json!(["canary-in-plain-sight", true]));
    agent.configure(out(server.addr.port(), &pki));
    assert!(agent.reload().0);
    assert_eq!(ask(), json!(["canary-in-plain-sight", true]));
    agent.configure(Config::rule("bad").outbound());
    let (good, said) = agent.reload();
    assert!(!good && said.contains("rule bad: `hostname` is missing"), "{said}");
    assert_eq!(ask(), json!(["canary-in-plain-sight", true]), "the old ones stay");
    agent.configure(deny("no", "out"));
    assert!(agent.reload().0);
    assert_eq!(ask(), json!("EACCES"));
    agent.configure("");
    assert!(agent.reload().0);
    assert_ne!(ask(), json!(["canary-in-plain-sight", true]));
}

#[test]
fn no_plaintext_goes_either_way_while_rules_are_replaced() {
    let (pki, server) = echo();
    let (out_port, in_port) = (server.addr.port(), closed_port("127.0.0.1"));
    let rules = out(out_port, &pki).and(served(in_port, &pki));
    let others = rules.clone().and(Config::rule("more").to_port(9).set("mode", "deny"));
    let mut agent = Agent::start_with(&rules);
    // There are many.
    let sniffer = Sniffer::of(move |packet| leaks(packet, out_port));
    let script = format!("{TALK}\nout(1)\nwhile True: out(talk())");
    let mut client = App::start(&agent, &script, &[&server.port()]);
    assert_eq!(client.said(), json!(1));
    let mut listener = App::start(&agent, SERVE, &["127.0.0.1", &in_port.to_string()]);
    assert_eq!(listener.said(), json!("ready"));
    let asked = (0..20).map(|round| {
        agent.configure(if round % 2 == 0 { &others } else { &rules });
        assert!(agent.reload().0);
        let plain = curl(&["--max-time", "1", &format!("http://127.0.0.1:{in_port}/canary-in-plain-sight")]);
        assert!(!plain.status.success(), "{}", text(&plain));
        client.said()
    });
    for said in asked.collect::<Vec<_>>() {
        assert_eq!(said, json!(["canary-in-plain-sight", true]));
    }
    assert_eq!(sniffer.stop(), Vec::<Vec<u8>>::new());
    client.kill();
    listener.kill();
}

#[test]
fn rules_end_with_an_agent_that_stops() {
    let (pki, server) = echo();
    let port = closed_port("127.0.0.1");
    let mut agent = Agent::start_with(served(port, &pki).and(out(server.addr.port(), &pki)));
    let mut app = App::start(&agent, SERVE, &["127.0.0.1", &port.to_string()]);
    assert_eq!(app.said(), json!("ready"));
    let script = "sock = socket.socket(); sock.connect(('127.0.0.1', int(args[0])))\nout(1); wait()\n\
                  try: out(sock.recv(1).decode())\nexcept OSError as error: out(errno.errorcode[error.errno])\nwait()";
    let mut client = App::start(&agent, script, &[&server.port()]);
    assert_eq!(client.said(), json!(1));
    // Neither the listener nor the connection keeps it.
    agent.stop();
    client.go();
    assert_eq!(client.said(), json!("ECONNRESET"));
    assert!(curl(&[&format!("http://127.0.0.1:{port}/")]).status.success(), "plain, as before it was attached");
}

#[test]
fn check_says_what_becomes_of_a_connection() {
    let pki = Pki::new();
    let agent = Agent::start_with(out(6379, &pki));
    let app = App::start(&agent, "out(1); wait()", &[]);
    let check = |to: &str| {
        let output = Command::new(ssa_tests::agent::executable())
            .args(["check", "--config"])
            .arg(agent.config())
            .args(["--explain", &app.pid().to_string(), "--to", to])
            .output()
            .unwrap();
        text(&output)
    };
    assert!(
        check("127.0.0.1:6379").contains(&format!("rule out: TLS to {NAME}, or no connection")),
        "{}",
        check("127.0.0.1:6379")
    );
    assert!(check("127.0.0.2:6379").contains("no rule is for it"));
}
