//! A service from its first packet to its last, and its agent likewise: TLS, or nothing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use serde_json::json;
use ssa_tests::{
    agent::{Agent, Ends, cgroup_mount, executable},
    app::{App, command},
    cgroup::Cgroup,
    config::Config,
    few,
    pki::Pki,
    report,
    server::{Server, closed_port},
    sniffer::{Sniffer, holds, ports},
    starts::{self, Busy},
};

use crate::canary::{CANARY, NAME, echo};

/// Whether the many starts of the long form are asked for.
fn is_long() -> bool {
    std::env::var_os("SSA_FAULTS").is_some()
}

/// A rule for the services of this process whose names begin so: what goes to the server is TLS.
fn ruled(units: &str, server: &Server, pki: &Pki) -> Config {
    let unit = format!("ssa-test-{}-{units}", std::process::id());
    Config::rule("out")
        .to("127.0.0.1", server.addr.port())
        .hostname(NAME)
        .trust_only(&pki.ca())
        .set("service.unit", unit.as_str())
}

/// A server that speaks no TLS, and sends back what comes.
fn plain_echo() -> Server {
    Server::tcp("127.0.0.1", |stream| {
        let _ended = std::io::copy(&mut &stream, &mut &stream);
    })
}

/// Packets with the canary to or from a port.
fn plaintext(sniffer: Sniffer) -> usize {
    sniffer.stop().len()
}

fn sniffer(port: u16) -> Sniffer {
    Sniffer::of(move |packet| {
        ports(packet).is_some_and(|(from, to)| from == port || to == port) && holds(packet, CANARY)
    })
}

/// Cgroups of this process's own, directly below the mount.
fn units(prefix: &str, count: usize) -> impl Iterator<Item = PathBuf> {
    let name = format!("ssa-test-{}-{prefix}", std::process::id());
    (0..count).map(move |number| cgroup_mount().join(format!("{name}{number}.service")))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn service_that_connects_at_once_speaks_tls() {
    let count = if is_long() { 10_000 } else { few(200) };
    let (pki, server) = echo();
    let _agent = Agent::start_with(ruled("first*.service", &server, &pki));
    let folder = tempfile::tempdir().unwrap();
    let sniffer = sniffer(server.addr.port());
    let busy = Busy::start();
    // The last is one unit that is restarted again and again.
    let one_by_one = starts::start(folder.path(), units("first", count), &server, 1);
    let at_once = starts::start(folder.path(), units("first-many", count), &server, 10);
    let again = (0..count).flat_map(|_time| units("first-again", 1));
    let again = starts::start(folder.path(), again, &server, 1);
    drop(busy);
    assert_eq!(plaintext(sniffer), 0, "plaintext of a service that has just begun");
    for (kind, came) in [("one by one", one_by_one), ("ten at once", at_once), ("one that is restarted", again)] {
        report::note(&format!("services that connect at once, {kind}"), &came.to_string());
        starts::assert_all_good(&came, count);
    }
}

#[test]
fn strangers_that_begin_beside_services_are_left_alone() {
    let (pki, plain) = (Pki::new(), plain_echo());
    // The rule could want what they do, until it is known who they are.
    let _agent = Agent::start_with(ruled("second*.service", &plain, &pki));
    let folder = tempfile::tempdir().unwrap();
    let count = few(50);
    starts::assert_all_good(&starts::start(folder.path(), units("stranger", count), &plain, 5), count);
}

#[test]
fn removed_cgroup_leaves_the_guards_on_its_sockets() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let (chain, key) = pki.write("moved", &pki.leaf(ssa_tests::pki::Leaf::of(&[NAME])));
    let unit = format!("ssa-test-{}-leaves.service", std::process::id());
    let rule =
        Config::rule("in").inbound().set("port", port).credentials(&chain, &key).set("service.unit", unit.as_str());
    let mut agent = Agent::start_with(rule);
    let (left, to) = (Cgroup::new("leaves.service"), Cgroup::new("elsewhere"));
    let mut python = Command::new(executable());
    python.args(["exec", "--cgroup", left.text(), "--", "python3"]);
    let mut app = App::start_by(python, "moved_away.py", &[&port.to_string(), left.text(), to.text()]);
    assert_eq!(app.said(), "ready");
    app.go();
    assert_eq!(app.said(), "gone");
    let ask_in_plaintext = || {
        let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(CANARY).ok()?;
        let mut answer = [0; 100];
        stream.read(&mut answer).ok().filter(|read| *read != 0)
    };
    assert_eq!(ask_in_plaintext(), None, "while the agent serves");
    // The agent looks at all cgroups again meanwhile.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(ask_in_plaintext(), None);
    agent.kill();
    assert_eq!(ask_in_plaintext(), None, "while no agent runs");
    agent.restart();
    assert_eq!(ask_in_plaintext(), None, "with an agent that has never seen the cgroup");
    app.go();
    assert_eq!(app.finish(), json!([]), "nothing has reached the application");
}

/// An application that talks to a port whenever it is told to, and says what came back.
const TALK: &str = r#"
from talk import *
while True:
    out(talk())
    wait()
"#;

#[test]
fn orderly_end_leaves_ruled_traffic_refused() {
    let (pki, server) = echo();
    let plain = plain_echo();
    let mut agent = Agent::absent();
    agent.ends = Ends::Closed;
    let rule = Config::rule("out").to("127.0.0.1", server.addr.port()).hostname(NAME).trust_only(&pki.ca());
    agent.configure(&rule);
    agent.restart();
    let mut app = App::start(&agent, TALK, &[&server.port()]);
    assert_eq!(app.said()[0], "canary-in-plain-sight");
    let sniffer = Sniffer::of({
        let port = server.addr.port();
        move |packet| ports(packet).is_some_and(|(from, to)| from == port || to == port) && holds(packet, b"canary")
    });
    agent.stop();
    assert!(agent.log().contains("the guards stay attached"), "{}", agent.log());
    app.go();
    assert_eq!(app.said(), "ENOTCONN");
    let mut other = App::start(&agent, TALK, &[&plain.port()]);
    assert_eq!(other.said()[0], "canary-in-plain-sight", "what no rule is for goes on");

    // One command shows what is left, and takes it away at a word.
    let name = agent.pins().file_name().unwrap().to_string_lossy().split_once('-').unwrap().1.to_owned();
    let cleanup = |words: &[&str]| {
        let output = Command::new(executable()).arg("cleanup").args(words).args(["--name", &name]).output().unwrap();
        (output.status.success(), text(&output))
    };
    let (_good, listed) = cleanup(&[]);
    assert!(listed.contains(agent.cgroup().to_str().unwrap()) && listed.contains("rules make traffic TLS"), "{listed}");
    let (good, said) = cleanup(&["--take-away"]);
    assert!(!good && said.contains("something depends on it"), "{said}");
    app.go();
    assert_eq!(app.said(), "ENOTCONN");
    assert_eq!(sniffer.stop().len(), 0);
    // An agent that is started again takes up what was left.
    agent.restart();
    app.go();
    assert_eq!(app.said()[0], "canary-in-plain-sight");
    let (good, said) = cleanup(&["--plaintext"]);
    assert!(!good && said.contains("end the agent first"), "{said}");
    agent.stop();
    let (good, said) = cleanup(&["--plaintext"]);
    assert!(good && said.contains("1 services are PLAINTEXT"), "{said}");
    assert!(!agent.pins().exists());
    // The server speaks TLS only, and is told plaintext.
    app.go();
    assert_ne!(app.said(), "ENOTCONN");
}

#[test]
fn detached_service_stays_closed_unless_it_is_opened() {
    let (pki, server) = echo();
    let rule = Config::rule("out").to("127.0.0.1", server.addr.port()).hostname(NAME).trust_only(&pki.ca());
    let agent = Agent::start_with(rule);
    let service = Cgroup::new("closes");
    let ask = |words: &[&str]| {
        let output = Command::new(executable()).args(words).arg("--agent").arg(agent.cgroup()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    ask(&["attach", service.text()]);
    let mut python = Command::new(executable());
    python.args(["exec", "--cgroup", service.text(), "--", "python3"]);
    let mut app = App::start_by(python, TALK, &[&server.port()]);
    assert_eq!(app.said()[0], "canary-in-plain-sight");
    let port = server.addr.port();
    let sniffer = Sniffer::of(move |packet| {
        ports(packet).is_some_and(|(from, to)| from == port || to == port) && holds(packet, b"canary")
    });
    assert!(ask(&["detach", service.text()]).contains("is left closed"));
    app.go();
    assert_eq!(app.said(), "ENOTCONN");
    assert!(ask(&["list"]).contains("(closed)"));
    // As it stays if the service begins again, in another cgroup.
    app.kill();
    fs::remove_dir(service.path()).unwrap();
    fs::create_dir(service.path()).unwrap();
    let mut python = Command::new(executable());
    python.args(["exec", "--cgroup", service.text(), "--", "python3"]);
    let mut app = App::start_by(python, TALK, &[&server.port()]);
    assert_eq!(app.said(), "ENOTCONN");
    ask(&["attach", service.text()]);
    app.go();
    assert_eq!(app.said()[0], "canary-in-plain-sight");
    assert!(ask(&["detach", "--all"]).contains("is left closed"));
    app.go();
    assert_eq!(app.said(), "ENOTCONN");
    assert_eq!(sniffer.stop().len(), 0, "nothing was plaintext until it was asked for");
    ask(&["detach", "--plaintext", service.text()]);
    app.go();
    assert_ne!(app.said(), "ENOTCONN", "it is plaintext, as was asked for");
    assert!(agent.log().contains("plaintext from now on, by command"));
}

#[test]
fn exec_refuses_a_cgroup_that_nobody_serves() {
    let nobodys = Cgroup::new("nobodys");
    let run = |words: &[&str]| {
        let output = Command::new(executable())
            .args(["exec", "--cgroup", nobodys.text()])
            .args(words)
            .args(["--", "echo", "it ran"])
            .output()
            .unwrap();
        (output.status.success(), text(&output))
    };
    let (good, said) = run(&[]);
    assert!(!good && said.contains("nobody serves") && !said.contains("it ran"), "{said}");
    let (good, said) = run(&["--plaintext"]);
    assert!(good && said.contains("it ran"), "{said}");
    // A folder that is no cgroup is not taken for the name of one.
    for words in [["run", "--cgroup", "/etc"], ["exec", "--cgroup", "/etc"], ["run", "--cgroup", "a/../../b"]] {
        let output = Command::new(executable()).args(words).args(["--", "true"]).output().unwrap();
        let said = text(&output);
        assert!(!output.status.success() && said.contains("no cgroup"), "{said}");
    }
    assert!(!cgroup_mount().join("etc").exists());
}

#[test]
fn explain_asks_the_agent_that_runs() {
    let (pki, server) = echo();
    let rule = Config::rule("to the peer").to("127.0.0.1", server.addr.port()).hostname(NAME).trust_only(&pki.ca());
    let agent = Agent::start_with(rule);
    let explain = |pid: u32, to: &str| {
        let output = Command::new(executable())
            .args(["explain", &pid.to_string(), "--to", to, "--agent"])
            .arg(agent.cgroup())
            .output()
            .unwrap();
        (output.status.success(), text(&output))
    };
    let to = format!("127.0.0.1:{}", server.port());
    let mut app = App::start(&agent, "out('up'); wait()", &[]);
    assert_eq!(app.said(), "up");
    let (served, said) = explain(app.pid(), &to);
    let place = fs::read_to_string(agent.config()).unwrap();
    let line = place.lines().position(|line| line.contains("to the peer")).unwrap() + 1;
    assert!(served && said.contains(&format!("TLS to {NAME}, or no connection")), "{said}");
    assert!(said.contains(&format!("{}:{line}", agent.config().display())), "{said}");
    assert!(said.contains(&format!("# service {}, attached by name", agent.cgroup().display())), "{said}");
    // By a name, as this machine resolves it.
    assert!(explain(app.pid(), &format!("localhost:{}", server.port())).1.contains("TLS to"));
    let (served, said) = explain(std::process::id(), &to);
    assert!(!served && said.contains("NOT SERVED") && said.contains("left alone"), "{said}");
    // The file alone says nothing about that, and says so.
    let output = Command::new(executable())
        .args(["check", "--config"])
        .arg(agent.config())
        .args(["--explain", &std::process::id().to_string(), "--to", &to])
        .output()
        .unwrap();
    assert!(text(&output).contains("reads the file only"), "{}", text(&output));
    let words = ["detach", agent.cgroup().to_str().unwrap(), "--agent", agent.cgroup().to_str().unwrap()];
    assert!(Command::new(executable()).args(words).status().unwrap().success());
    let (_closed, said) = explain(app.pid(), &to);
    assert!(said.contains("CLOSED") && said.contains("refused with ENOTCONN"), "{said}");
}

#[test]
fn refused_set_without_room_never_speaks_plaintext() {
    let agent = Agent::start();
    let plain = plain_echo();
    let port = plain.addr.port();
    // A filter is charged to the socket's option memory, after its translation: a load becomes several instructions.
    let script = r#"
port, = args
ONE = struct.pack("HBBI", 0x28, 0, 0, 0)
END = struct.pack("HBBI", 6, 0, 0, 0xffffffff)
class Filter(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
def attach(sock, loads):
    # It ends before the loads: packets pass.
    code = ctypes.create_string_buffer(END + ONE * loads + END)
    program = Filter(loads + 2, ctypes.addressof(code))
    return libc.setsockopt(sock.fileno(), socket.SOL_SOCKET, 26, ctypes.byref(program), ctypes.sizeof(program)) == 0
def full():
    sock = socket.socket()
    low, high = 0, 4094
    while low < high:
        middle = (low + high + 1) // 2
        if attach(sock, middle):
            low = middle
            libc.setsockopt(sock.fileno(), socket.SOL_SOCKET, 27, b"\0" * 4, 4)
        else:
            high = middle - 1
    return sock, "ENOBUFS" if attach(sock, low) and low < 4094 else low
sock, why = full()
came = [why, attempt(sock.setsockopt, IPPROTO_TLS, TLS_HOSTNAME, text("peer.ssa.test"))]
came.append(attempt(sock.connect, ("127.0.0.1", int(port))))
try:
    sock.sendall(b"canary-7f3a91c2-must-not-be-seen")
except OSError:
    pass
server, _ = full()
came.append(attempt(server.setsockopt, IPPROTO_TLS, TLS_HOSTNAME, text("peer.ssa.test")))
came.append(attempt(server.bind, ("127.0.0.1", 0)))
out(came)
"#;
    let sniffer = sniffer(port);
    let mut limits = command(&agent, "sh");
    limits.args(["-c", "exec python3 \"$@\"", "sh"]);
    let mut app = App::start_by(limits, script, &[&port.to_string()]);
    let came = app.said();
    assert_eq!(plaintext(sniffer), 0, "{came}");
    assert_eq!(came, json!(["ENOBUFS", "ENOBUFS", "EPROTO", "ENOBUFS", "EPROTO"]));
}

#[test]
fn guards_of_another_version_are_named_or_replaced() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let script = "port, ca = args\nfirst = tls('peer.ssa.test', ca)\nout('set'); wait()\n\
                  sock = tls('peer.ssa.test', ca)\nout(connect(sock, '127.0.0.1', port)['result'])";
    let mut app = App::start(&agent, script, &[&server.port(), &pki.ca()]);
    assert_eq!(app.said(), "set");
    agent.kill();
    // What is left is another version's, as far as names say.
    let other = agent.pins().with_file_name(agent.pins().file_name().unwrap().to_string_lossy().replace("v1", "v9"));
    fs::rename(agent.pins(), &other).unwrap();
    let output = Command::new(executable()).args(["run", "--cgroup"]).arg(agent.cgroup()).output().unwrap();
    let said = text(&output);
    assert!(!output.status.success() && said.contains("TLS sockets depend on guards of another version"), "{said}");
    let listed = text(&Command::new(executable()).arg("cleanup").output().unwrap());
    assert!(listed.contains("of version 9"), "{listed}");
    // With the last socket nothing depends on them.
    app.kill();
    agent.restart();
    assert!(!other.exists(), "they were taken away when the new ones were there");
    let app = App::start(
        &agent,
        "port, ca = args\nsock = tls('peer.ssa.test', ca)\n\
                                  out(connect(sock, '127.0.0.1', port)['result'])",
        &[&server.port(), &pki.ca()],
    );
    assert_eq!(app.finish(), "ok");
}

#[test]
fn clients_that_connect_as_listen_returns_do_not_wait() {
    let count = few(1000);
    let pki = Pki::new();
    let agent = Agent::start();
    let (chain, key) = pki.write("quick", &pki.leaf(ssa_tests::pki::Leaf::of(&[NAME])));
    // Each SYN that is sent again counts (tcpi_total_retrans, tcp(7)).
    let script = r#"
import resource
chain, key, count = args
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
listener = socket.socket()
listener.setsockopt(IPPROTO_TLS, TLS_CERTIFICATE_CHAIN, text(chain))
listener.setsockopt(IPPROTO_TLS, TLS_PRIVATE_KEY, text(key))
listener.bind(("127.0.0.1", 0))
clients = []
for _ in range(int(count)):
    client = socket.socket()
    client.setblocking(False)
    clients.append(client)
listener.listen(4096)
for client in clients:
    client.connect_ex(listener.getsockname())
deadline = time.monotonic() + 20
left = set(clients)
while left and time.monotonic() < deadline:
    for client in select.select([], list(left)[:1000], [], 1)[1]:
        left.discard(client)
again = sum(struct.unpack_from("=I", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]
            for client in clients)
out([len(left), again, sum(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0 for client in clients)])
"#;
    let app = App::start(&agent, script, &[&chain, &key, &count.to_string()]);
    assert_eq!(app.finish(), json!([0, 0, 0]), "connections that are not there, SYNs that were sent again, errors");
}

#[test]
fn namespace_that_answers_with_cookies_is_served() {
    let (pki, server) = echo();
    let agent = Agent::start();
    let script = r#"
import subprocess
name, ca, chain, key = args
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x40000000) == 0
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["sysctl", "-qw", "net.ipv4.tcp_syncookies=2"], check=True)
peer = subprocess.Popen(["openssl", "s_server", "-accept", "127.0.0.1:7443", "-cert", chain, "-key", key, "-rev", "-quiet"],
                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=lambda: libc.prctl(1, 9))
deadline = time.monotonic() + 10
while socket.socket().connect_ex(("127.0.0.1", 7443)) and time.monotonic() < deadline:
    time.sleep(0.01)
came = []
for _ in range(30):
    sock = tls(name, ca)
    came.append(connect(sock, "127.0.0.1", 7443)["result"])
    sock.sendall(b"abc\n")
    came.append(sock.recv(10).decode())
peer.kill()
out(came)
"#;
    drop(server);
    let (chain, key) = pki.write("cookies", &pki.leaf(ssa_tests::pki::Leaf::of(&[NAME])));
    let app = App::start(&agent, script, &[NAME, &pki.ca(), &chain, &key]);
    assert_eq!(app.finish(), json!(["ok", "cba\n"].repeat(30)));
}
