//! TLS by rule: programs that know nothing of it.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{App, command, python},
    eventually,
    nginx::{Peer, redis_server},
    pki::{Leaf, Pki},
    server::{self, Server, closed_port},
    sniffer::{Sniffer, holds},
};

const NAME: &str = "peer.ssa.test";

fn echo() -> (Pki, Server) {
    let pki = Pki::new();
    let context = server::context(&pki.leaf(Leaf::of(&[NAME])));
    (pki, Server::tls("127.0.0.1", context, server::echo))
}

/// What goes to a port of 127.0.0.1 is TLS to [`NAME`].
fn out(port: u16, pki: &Pki, more: &str) -> String {
    format!(
        "[[rule]]\nname = \"out\"\ndirection = \"out\"\naddress = \"127.0.0.1\"\nport = {port}\nhostname = \"{NAME}\"\n\
         trust = {{ system = false, files = [\"{}\"] }}\n{more}\n",
        pki.ca()
    )
}

const TALK: &str = r#"
port, = args
def talk():
    sock = socket.socket()
    sock.settimeout(20)
    try:
        sock.connect(("127.0.0.1", int(port)))
        sock.sendall(b"canary-in-plain-sight")
        return [sock.recv(100).decode(), sock.getpeername()[1] == int(port)]
    except OSError as error:
        return errno.errorcode[error.errno]
"#;

#[test]
fn plain_program_speaks_tls_and_others_are_left_alone() {
    let (pki, server) = echo();
    let agent = Agent::start_with(&out(server.addr.port(), &pki, ""));
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
    let agent = Agent::start_with(&out(server.addr.port(), &pki, ""));
    let said = python(&agent, &format!("{TALK}\nout(talk())"), &[&server.port()]);
    assert_eq!(said, json!("EPROTO"));
}

#[test]
fn rule_holds_while_the_agent_is_dead_and_after_it_has_come_back() {
    let (pki, server) = echo();
    let mut agent = Agent::start_with(&out(server.addr.port(), &pki, ""));
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
    let config = "[[rule]]\nname = \"no\"\ndirection = \"out\"\naddress = \"127.0.0.0/8\"\nport = \"1000-1999\"\nmode = \"deny\"\n\
                  [[rule]]\nname = \"no datagrams\"\ndirection = \"out\"\nprotocol = \"udp\"\nport = 443\nmode = \"deny\"\n\
                  [[rule]]\nname = \"but one\"\ndirection = \"out\"\naddress = \"127.0.0.1\"\nport = 1500\nmode = \"plain\"";
    let agent = Agent::start_with(config);
    let script = r#"
def code(call):
    try: call()
    except OSError as error: return errno.errorcode[error.errno]
def tcp(port, family=socket.AF_INET, to="127.0.0.1", protocol=0):
    return code(lambda: socket.socket(family, socket.SOCK_STREAM, protocol).connect((to, port)))
def udp(port, how):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return code(lambda: sock.connect(("127.0.0.1", port)) if how == "connect" else sock.sendto(b"x", ("127.0.0.1", port)))
out([tcp(1000), tcp(1999, to="0.0.0.0"), tcp(1000, socket.AF_INET6, "::ffff:127.0.0.1"), tcp(1500), tcp(2000), tcp(1000, protocol=262),
     udp(443, "connect"), udp(443, "sendto"), udp(442, "connect"), udp(442, "sendto")])
"#;
    let said = python(&agent, script, &[]);
    let refused = "ECONNREFUSED";
    assert_eq!(said, json!(["EACCES", "EACCES", "EACCES", refused, refused, "EACCES", "EACCES", "EACCES", null, null]));
}

#[test]
fn socket_goes_by_the_rule_for_each_destination() {
    let (pki, server) = echo();
    let plain = Server::tcp("127.0.0.1", |mut stream| {
        let _gone = stream.write_all(b"plain");
        let _gone = stream.read(&mut [0; 10]);
    });
    let agent = Agent::start_with(&out(server.addr.port(), &pki, ""));
    let script = r#"
tls, plain, closed = (int(arg) for arg in args)
AF_UNSPEC = b"\0" * 16
import ctypes
libc = ctypes.CDLL(None)
sock = socket.socket()
sock.connect(("127.0.0.1", tls)); sock.sendall(b"one"); said = [sock.recv(10).decode()]
libc.connect(sock.fileno(), AF_UNSPEC, 16)
sock.connect(("127.0.0.1", plain)); said.append(sock.recv(10).decode())
try: sock.getsockopt(IPPROTO_TLS, STATE, 4)
except OSError as error: said.append(errno.errorcode[error.errno])
libc.connect(sock.fileno(), AF_UNSPEC, 16)
sock.connect(("127.0.0.1", tls)); sock.sendall(b"two"); said.append(sock.recv(10).decode())
said.append(int.from_bytes(sock.getsockopt(IPPROTO_TLS, STATE, 4), "little"))
out(said)
"#;
    let said = python(&agent, script, &[&server.port(), &plain.port(), "0"]);
    assert_eq!(said, json!(["one", "plain", "ENOPROTOOPT", "two", 2]));
}

#[test]
fn cgroup_that_was_just_made_is_refused_until_it_is_known() {
    let (pki, server) = echo();
    let mut agent = Agent::start_with(&out(server.addr.port(), &pki, ""));
    let script = format!(
        r#"{TALK}
def move(name):
    here = os.path.join(sys.argv[2], name)
    os.makedirs(here, exist_ok=True)
    with open(here + "/cgroup.procs", "w") as procs: procs.write("0")
def leave(name):
    with open(sys.argv[2] + "/cgroup.procs", "w") as procs: procs.write("0")
    os.rmdir(os.path.join(sys.argv[2], name))
move("one")
deadline = time.monotonic() + 20
while (said := talk()) == "ENOTCONN" and time.monotonic() < deadline: time.sleep(0.001)
out(said)
leave("one"); wait()
move("two")
out([talk(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(("127.0.0.1", 9))])
leave("two")
"#
    )
    .replace("port, = args", "port, _cgroup = args");
    let cgroup = agent.cgroup().to_string_lossy().into_owned();
    let mut app = App::start(&agent, &script, &[&server.port(), &cgroup]);
    assert_eq!(app.said(), json!(["canary-in-plain-sight", true]));
    agent.kill();
    app.go();
    assert_eq!(app.said(), json!(["ENOTCONN", 107]), "nobody is there to know it");
    app.finish();
}

#[test]
fn listener_of_a_cgroup_that_was_just_made_is_served() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(&served(port, &pki));
    let script = format!(
        r#"
here = args[2] + "/below"
os.makedirs(here)
with open(here + "/cgroup.procs", "w") as procs: procs.write("0")
{SERVE}"#
    );
    let cgroup = agent.cgroup().to_string_lossy().into_owned();
    let mut app = App::start(&agent, &script, &["127.0.0.1", &port.to_string(), &cgroup]);
    assert_eq!(app.said(), json!("ready"));
    let (resolve, url) = (format!("{NAME}:{port}:127.0.0.1"), format!("https://{NAME}:{port}/"));
    let good = || curl(&["--cacert", &pki.ca(), "--resolve", &resolve, &url]).status.success();
    eventually("it is served", Duration::from_secs(10), good);
    app.kill();
    eventually("the cgroup is free", Duration::from_secs(10), || {
        std::fs::remove_dir(format!("{cgroup}/below")).is_ok()
    });
}

#[test]
fn options_of_a_program_win_over_the_rule() {
    let (pki, server) = echo();
    let agent = Agent::start_with(&out(server.addr.port(), &pki, ""));
    let script = r#"
port, name, ca = args
def code(call):
    try: call()
    except OSError as error: return errno.errorcode[error.errno]
bare = socket.socket()
bare.setsockopt(IPPROTO_TLS, 90, b"h2\0")
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
    agent.configure(&out(server.addr.port(), &pki, ""));
    assert!(agent.reload().0);
    assert_eq!(ask(), json!(["canary-in-plain-sight", true]));
    agent.configure("[[rule]]\nname = \"bad\"\ndirection = \"out\"");
    let (good, said) = agent.reload();
    assert!(!good && said.contains("rule bad: `hostname` is missing"), "{said}");
    assert_eq!(ask(), json!(["canary-in-plain-sight", true]), "the old ones stay");
    agent.configure("[[rule]]\nname = \"no\"\ndirection = \"out\"\nmode = \"deny\"");
    assert!(agent.reload().0);
    assert_eq!(ask(), json!("EACCES"));
    agent.configure("");
    assert!(agent.reload().0);
    assert_ne!(ask(), json!(["canary-in-plain-sight", true]));
}

/// nginx, redis and PostgreSQL with TLS; curl, redis-cli and others without.
#[test]
fn unmodified_curl_reaches_nginx() {
    let pki = Pki::new();
    let (chain, key) = pki.write("peer", &pki.leaf(Leaf::of(&[NAME])));
    let peer = Peer::nginx(&pki, &chain, &key);
    let agent = Agent::start_with(&out(peer.port, &pki, ""));
    let mut curl = command(&agent, "curl");
    curl.args(["-sS", "--max-time", "20", &format!("http://127.0.0.1:{}/", peer.port)]);
    let said = text(&curl.output().unwrap());
    assert!(said.starts_with(&format!("ssa TLSv1.3 {NAME}")), "{said}");
}

/// A program in the service, that is to succeed.
fn run(agent: &Agent, program: &str, arguments: &[&str]) -> String {
    let output = command(agent, program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn unmodified_redis_cli_and_nc_reach_redis_with_tls() {
    let pki = Pki::new();
    let (chain, key) = pki.write("redis", &pki.leaf(Leaf::of(&[NAME])));
    let port = closed_port("127.0.0.1");
    let tls = ["--port", "0", "--tls-port", &port.to_string(), "--tls-cert-file", &chain, "--tls-key-file", &key];
    let rest = ["--tls-ca-cert-file", &pki.ca(), "--tls-auth-clients", "no"];
    let _redis = Peer::redis(pki.folder(), redis_server(), port, &[&tls[..], &rest[..]].concat());
    let agent = Agent::start_with(&out(port, &pki, ""));
    let port = port.to_string();
    assert_eq!(run(&agent, "redis-cli", &["-h", "127.0.0.1", "-p", &port, "set", "key", "value"]), "OK");
    assert_eq!(run(&agent, "redis-cli", &["-h", "127.0.0.1", "-p", &port, "get", "key"]), "value");
    let talk = format!("printf 'GET key\r\nQUIT\r\n' | nc -w 10 127.0.0.1 {port}");
    assert_eq!(run(&agent, "sh", &["-c", &talk]), "$5\r\nvalue\r\n+OK");
    let outside = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port, "get", "key"]).output().unwrap();
    assert!(!text(&outside).contains("value"), "{}", text(&outside));
    // A program that speaks TLS already is told to leave it.
    let arguments = ["-h", "127.0.0.1", "-p", &port, "--tls", "--insecure", "get", "key"];
    let own = command(&agent, "redis-cli").args(arguments).output().unwrap();
    assert!(!text(&own).contains("value"), "{}", text(&own));
    eventually("the log says so", Duration::from_secs(5), || agent.log().contains("speaks TLS itself"));
}

#[test]
fn own_tls_is_passed_on_where_a_rule_lets_it() {
    let pki = Pki::new();
    let (chain, key) = pki.write("redis", &pki.leaf(Leaf::of(&[NAME])));
    let port = closed_port("127.0.0.1");
    let text_port = port.to_string();
    let tls = ["--port", "0", "--tls-port", &text_port, "--tls-cert-file", &chain, "--tls-key-file", &key];
    let rest = ["--tls-ca-cert-file", &pki.ca(), "--tls-auth-clients", "no"];
    let _redis = Peer::redis(pki.folder(), redis_server(), port, &[&tls[..], &rest[..]].concat());
    let agent = Agent::start_with(&out(port, &pki, "own_tls = \"pass\""));
    let redis_cli = |more: &[&str]| run(&agent, "redis-cli", &[&["-h", "127.0.0.1", "-p", &text_port], more].concat());
    assert_eq!(redis_cli(&["set", "key", "value"]), "OK", "the agent's TLS");
    assert_eq!(redis_cli(&["--tls", "--sni", NAME, "--cacert", &pki.ca(), "get", "key"]), "value", "its own");
    eventually("the log says whose", Duration::from_secs(5), || {
        let log = agent.log();
        log.contains("its own TLS") && log.contains("TLS 1.3")
    });
    // What begins like TLS must go on like it.
    let script = r#"
sock = socket.create_connection(("127.0.0.1", int(args[0])))
sock.settimeout(20)
sock.sendall(bytes([22, 3, 1, 0, 1, 1]))
time.sleep(0.2)
try:
    sock.sendall(b"canary-in-plain-sight")
    out(sock.recv(100).decode())
except OSError as error: out(errno.errorcode[error.errno])
"#;
    let sniffer = Sniffer::start();
    assert_eq!(python(&agent, script, &[&text_port]), json!("ECONNRESET"));
    assert!(!sniffer.stop().iter().any(|packet| leaks(packet, port)));
    eventually("the log says why", Duration::from_secs(5), || agent.log().contains("goes on with something else"));
}

#[test]
fn who_may_speak_own_tls_and_does_not_is_still_given_a_verified_peer() {
    let pki = Pki::new();
    let greets = |name: &str| {
        Server::tls("127.0.0.1", server::context(&pki.leaf(Leaf::of(&[name]))), |mut stream| {
            let _gone = stream.write_all(b"welcome");
            let _gone = stream.read(&mut [0; 10]);
        })
    };
    let (right, wrong) = (greets(NAME), greets("other.ssa.test"));
    let rule = |server: &Server| {
        let port = server.addr.port();
        out(port, &pki, "own_tls = \"pass\"").replace("\"out\"\ndir", &format!("\"{port}\"\ndir"))
    };
    let agent = Agent::start_with(&(rule(&right) + &rule(&wrong)));
    let script = r#"
def first(port):
    sock = socket.create_connection(("127.0.0.1", int(port)))
    sock.settimeout(20)
    try: return sock.recv(100).decode()
    except OSError as reset: return [errno.errorcode[reset.errno], "other.ssa.test" in error(sock) or error(sock)]
out([first(port) for port in args])
"#;
    let said = python(&agent, script, &[&right.port(), &wrong.port()]);
    assert_eq!(said, json!(["welcome", ["ECONNRESET", true]]));
}

const NODE: &str = r#"
const http = require("http");
const [mode, port] = process.argv.slice(1);
if (mode === "serve") {
  http.createServer((request, response) => response.end(request.socket.remoteAddress)).listen(port, "127.0.0.1");
} else {
  http.get({ host: "127.0.0.1", port }, (response) => response.pipe(process.stdout));
}
"#;

#[test]
fn unmodified_node_reaches_nginx_and_is_served() {
    let pki = Pki::new();
    let (chain, key) = pki.write("peer", &pki.leaf(Leaf::of(&[NAME])));
    let peer = Peer::nginx(&pki, &chain, &key);
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(&(out(peer.port, &pki, "") + &served(port, &pki)));
    let said = run(&agent, "node", &["-e", NODE, "get", &peer.port.to_string()]);
    assert!(said.starts_with(&format!("ssa TLSv1.3 {NAME}")), "{said}");
    let mut node = command(&agent, "node").args(["-e", NODE, "serve", &port.to_string()]).spawn().unwrap();
    let (resolve, url) = (format!("{NAME}:{port}:127.0.0.1"), format!("https://{NAME}:{port}/"));
    eventually("it is served", Duration::from_secs(30), || {
        text(&curl(&["--cacert", &pki.ca(), "--resolve", &resolve, &url])) == "127.0.0.1"
    });
    node.kill().unwrap();
    node.wait().unwrap();
}

#[test]
fn no_plaintext_goes_either_way_while_rules_are_replaced() {
    let (pki, server) = echo();
    let (out_port, in_port) = (server.addr.port(), closed_port("127.0.0.1"));
    let rules = out(out_port, &pki, "") + &served(in_port, &pki);
    let others = format!("{rules}[[rule]]\nname = \"more\"\ndirection = \"out\"\nport = 9\nmode = \"deny\"\n");
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

/// Whether a packet to or from a port has the canary in it.
fn leaks(packet: &[u8], port: u16) -> bool {
    ssa_tests::sniffer::ports(packet).is_some_and(|(from, to)| from == port || to == port) && holds(packet, b"canary")
}

#[test]
fn unmodified_psql_reaches_postgresql_with_tls() {
    let pki = Pki::new();
    let (chain, key) = pki.write("postgres", &pki.leaf(Leaf::of(&[NAME])));
    let postgres = Peer::postgres(&pki, &chain, &key);
    let agent = Agent::start_with(&out(postgres.port, &pki, "starttls = \"postgres\""));
    let ask = |sslmode: &str| {
        let connection = format!("host=127.0.0.1 port={} user=postgres sslmode={sslmode}", postgres.port);
        let question = "select version from pg_stat_ssl where pid = pg_backend_pid()";
        run(&agent, "psql", &["-XAt", "-c", question, &connection])
    };
    // With the second, psql asks for TLS, and is told that there is none.
    assert_eq!(ask("disable"), "TLSv1.3");
    assert_eq!(ask("prefer"), "TLSv1.3");
}

/// Speaks SMTP, IMAP or POP3 until TLS begins, and a line more.
fn mail_server(pki: &Pki, script: &'static [(&'static str, &'static str)], eager: bool) -> Server {
    let context = server::context(&pki.leaf(Leaf::of(&[NAME])));
    Server::tcp("127.0.0.1", move |mut stream| {
        for (expected, answer) in script {
            let mut line = Vec::new();
            while !expected.is_empty() && line.last() != Some(&b'\n') {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    return;
                }
                line.push(byte[0]);
            }
            assert_eq!(String::from_utf8_lossy(&line).trim_end(), *expected);
            let _gone = stream.write_all(answer.as_bytes());
        }
        if eager {
            let _gone = stream.write_all(b"250 injected\r\n");
        }
        let Some(mut stream) = server::handshake(&context, stream) else { return };
        let mut said = [0; 100];
        let read = stream.read(&mut said).unwrap_or(0);
        let _gone = stream.write_all(&said[..read]);
        let _gone = stream.shutdown();
    })
}

#[test]
fn preferred_tls_falls_back_to_plaintext_and_says_so() {
    let (pki, tls) = echo();
    let wrong = server::context(&pki.leaf(Leaf::of(&["other.ssa.test"])));
    let wrong = Server::tls("127.0.0.1", wrong, server::echo);
    let plain = Server::tcp("127.0.0.1", |mut stream| {
        let mut buffer = [0; 100];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            // A ClientHello comes first, on a connection of its own.
            let hello = buffer[0] == 22;
            let answer = if hello { b"-ERR what?\r\n" } else { &buffer[..read] };
            if stream.write_all(answer).is_err() || hello {
                return;
            }
        }
    });
    let greets = Server::tcp("127.0.0.1", |mut stream| {
        let _gone = stream.write_all(b"220 hello\r\n");
        let _gone = stream.read(&mut [0; 2000]);
    });
    let rule = |port: u16| out(port, &pki, "mode = \"prefer\"").replace("\"out\"\ndir", &format!("\"{port}\"\ndir"));
    let servers = [&tls, &wrong, &plain, &greets];
    let agent = Agent::start_with(&servers.iter().map(|server| rule(server.addr.port())).collect::<String>());
    assert!(agent.log().contains("plaintext is sent to whoever speaks no TLS"), "loudly");
    let script = format!("{TALK}\nsaid = []\nfor port in PORTS: said.append(talk())\nout(said)")
        .replace("port, = args", "PORTS = args");
    let said = python(&agent, &script, &servers.map(Server::port).each_ref().map(String::as_str));
    let heard = json!(["canary-in-plain-sight", true]);
    assert_eq!(said, json!([heard, "EPROTO", heard, ["220 hello\r\n", true]]));
    assert_eq!(agent.log().matches("plaintext: the peer speaks no TLS").count(), 2);
}

#[test]
fn listener_that_prefers_tls_serves_both() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(&served(port, &pki).replace("direction", "mode = \"prefer\"\ndirection"));
    let mut app = App::start(&agent, SERVE, &["127.0.0.1", &port.to_string()]);
    assert_eq!(app.said(), json!("ready"));
    let (resolve, url) = (format!("{NAME}:{port}:127.0.0.1"), format!("https://{NAME}:{port}/"));
    let good = || curl(&["--cacert", &pki.ca(), "--resolve", &resolve, &url]).status.success();
    eventually("it is served", Duration::from_secs(10), good);
    let plain = curl(&["--local-port", "20000-30000", &format!("http://127.0.0.1:{port}/")]);
    let came: serde_json::Value = serde_json::from_str(&text(&plain)).unwrap();
    assert!((20000..=30000).contains(&came[1].as_u64().unwrap()), "{came}");
    assert!(agent.log().contains("plaintext: the client speaks no TLS"));
}

#[test]
fn mail_protocols_are_asked_for_tls_and_the_program_hears_the_greeting() {
    let pki = Pki::new();
    const SMTP: &[(&str, &str)] = &[
        ("", "220-mail.test\r\n220 ESMTP\r\n"),
        ("EHLO localhost", "250-mail.test\r\n250-SIZE 1000\r\n250 STARTTLS\r\n"),
        ("STARTTLS", "220 go on\r\n"),
    ];
    const IMAP: &[(&str, &str)] =
        &[("", "* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hi\r\n"), ("ssa STARTTLS", "* note\r\nssa OK go on\r\n")];
    const POP3: &[(&str, &str)] = &[("", "+OK hi\r\n"), ("STLS", "+OK go on\r\n")];
    const WITHOUT: &[(&str, &str)] = &[("", "220 hi\r\n"), ("EHLO localhost", "250-mail.test\r\n250 SIZE 1000\r\n")];
    let script = r#"
said = []
for port in args:
    sock = socket.socket()
    sock.settimeout(20)
    try:
        sock.connect(("127.0.0.1", int(port)))
        lines = sock.makefile("rb")
        greeting = lines.readline() 
        if greeting.startswith(b"220-"): greeting += lines.readline()
        sock.sendall(b"QUIT\r\n")
        said.append([greeting.decode(), lines.readline().decode()])
    except OSError as error:
        said.append(errno.errorcode[error.errno])
out(said)
"#;
    let servers = [
        (mail_server(&pki, SMTP, false), "smtp"),
        (mail_server(&pki, IMAP, false), "imap"),
        (mail_server(&pki, POP3, false), "pop3"),
        (mail_server(&pki, SMTP, true), "smtp"),
        (mail_server(&pki, WITHOUT, false), "smtp"),
    ];
    let rules: String = servers
        .iter()
        .map(|(server, protocol)| {
            let port = server.addr.port();
            out(port, &pki, &format!("starttls = \"{protocol}\"")).replace("\"out\"\ndir", &format!("\"{port}\"\ndir"))
        })
        .collect();
    let agent = Agent::start_with(&rules);
    let ports: Vec<String> = servers.iter().map(|(server, _protocol)| server.port()).collect();
    let said = python(&agent, script, &ports.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(
        said,
        json!([
            ["220-mail.test\r\n220 ESMTP\r\n", "QUIT\r\n"],
            ["* OK ready\r\n", "QUIT\r\n"],
            ["+OK hi\r\n", "QUIT\r\n"],
            "EPROTO",
            "EPROTO",
        ])
    );
}

const BIND: &str = r#"
try: socket.create_server(("127.0.0.1", 0)); out("bound")
except OSError as error: out(errno.errorcode[error.errno])
"#;

#[test]
fn unmodified_redis_is_served_as_tls() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let nothing_else = "[[rule]]\nname = \"nothing else\"\ndirection = \"in\"\nmode = \"deny\"\n";
    let agent = Agent::start_with(&format!("{nothing_else}{}", served(port, &pki)));
    assert_eq!(python(&agent, BIND, &[]), json!("EACCES"));
    let program = redis_server();
    let mut redis = command(&agent, "bash");
    redis.arg("-c").arg("exec -a redis-server \"$0\" \"$@\"").arg(program.get_program());
    let text_port = port.to_string();
    let _redis = Peer::redis(pki.folder(), redis, port, &["--port", &text_port]);
    let ask = || {
        let arguments = ["-h", "127.0.0.1", "-p", &text_port, "--tls", "--sni", NAME, "--cacert", &pki.ca(), "ping"];
        text(&Command::new("redis-cli").args(arguments).output().unwrap())
    };
    eventually("redis answers through TLS", Duration::from_secs(10), || ask().trim() == "PONG");
    // Peer::redis has connected in plaintext, and got nowhere: the handshake was the kernel's.
    let plain = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &text_port, "ping"]).output().unwrap();
    assert!(!text(&plain).contains("PONG"), "{}", text(&plain));
}

#[test]
fn replaced_certificate_of_a_rule_is_taken_up() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(&served(port, &pki));
    let mut app = App::start(&agent, SERVE, &["127.0.0.1", &port.to_string()]);
    assert_eq!(app.said(), json!("ready"));
    let ask = |name: &str| {
        let (resolve, url) = (format!("{name}:{port}:127.0.0.1"), format!("https://{name}:{port}/"));
        curl(&["--cacert", &pki.ca(), "--resolve", &resolve, &url]).status.success()
    };
    eventually("it is served", Duration::from_secs(10), || ask(NAME));
    assert!(!ask("other.ssa.test"));
    pki.write("served", &pki.leaf(Leaf::of(&["other.ssa.test"])));
    eventually("the new certificate is shown", Duration::from_secs(10), || ask("other.ssa.test"));
}

/// A name server on 127.0.0.53, where the service asks. Asks back whoever asks it, so that the test can forge.
const ASK: &str = r#"
def question(name, number):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
def answer(query, addr, ttl=60):
    return (query[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0) + query[12:]
            + struct.pack(">3HIH", 0xc00c, 1, 1, ttl, 4) + socket.inet_aton(addr))
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))
forger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
forger.bind(("127.0.0.54", 53))
def resolve(name, addr, by=server, number=None, reply=None, sock=None):
    sock = sock or socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    resolve.number += 1
    asked = question(name, resolve.number)
    sock.sendto(asked, ("127.0.0.53", 53))
    query, client = server.recvfrom(512)
    reply = reply or answer(question(name, number or resolve.number), addr)
    by.sendto(reply, client)
    sock.recv(512)
    return sock
resolve.number = 1000
def talk(addr):
    sock = socket.socket()
    sock.settimeout(20)
    try:
        sock.connect((addr, int(args[0])))
        sock.sendall(b"hello")
        return sock.recv(100).decode()
    except OSError as error:
        return errno.errorcode[error.errno]
"#;

/// As [`out`], with these names instead of one.
fn by_names(port: u16, pki: &Pki, names: &str) -> String {
    out(port, pki, &format!("hostnames = {names}"))
        .replace(&format!("hostname = \"{NAME}\"\n"), "")
        .replace("address = \"127.0.0.1\"\n", "")
}

#[test]
fn learned_name_is_what_the_peer_must_prove_to_have() {
    let pki = Pki::new();
    let several = pki.leaf(Leaf::of(&["one.ssa.test", "two.ssa.test", "a.cloud.test"]));
    let context = server::context(&several);
    let server = Server::tls("127.0.0.1", context, |mut stream| {
        let mut hello = [0; 10];
        let _gone = stream.read(&mut hello);
        let name = stream.ssl().servername(openssl::ssl::NameType::HOST_NAME).unwrap_or("none").to_owned();
        let _gone = stream.write_all(name.as_bytes());
        let _gone = stream.shutdown();
    });
    let config = by_names(server.addr.port(), &pki, "[\"one.ssa.test\", \"two.ssa.test\", \"*.cloud.test\"]");
    let agent = Agent::start_with(&config);
    let script = format!(
        "{ASK}{}",
        r#"
said = {"nothing resolved": talk("127.0.0.1")}
resolve("other.ssa.test", "127.0.0.1"); said["not listed"] = talk("127.0.0.1")
resolve("cloud.test", "127.0.0.1"); said["above the pattern"] = talk("127.0.0.1")
resolve("one.ssa.test", "127.0.0.1", by=forger); said["from another server"] = talk("127.0.0.1")
resolve("one.ssa.test", "127.0.0.1", number=7); said["another number"] = talk("127.0.0.1")
resolve("other.ssa.test", "127.0.0.1", reply=answer(question("one.ssa.test", resolve.number + 1), "127.0.0.1"))
said["another question"] = talk("127.0.0.1")
sock = resolve("x.ssa.test", "127.0.0.9")
server.sendto(answer(question("one.ssa.test", 1), "127.0.0.1"), sock.getsockname() if sock.getsockname()[0] != "0.0.0.0" else ("127.0.0.1", sock.getsockname()[1]))
sock.recv(512); said["not asked for"] = talk("127.0.0.1")
resolve("a.cloud.test", "127.0.0.1"); said["by a pattern"] = talk("127.0.0.1")
resolve("ONE.ssa.test", "127.0.0.1"); said["two that fit"] = talk("127.0.0.1")
out(said)
"#
    );
    let said = python(&agent, &script, &[&server.port()]);
    assert_eq!(
        said,
        json!({
            "nothing resolved": "EPROTO",
            "not listed": "EPROTO",
            "above the pattern": "EPROTO",
            "from another server": "EPROTO",
            "another number": "EPROTO",
            "another question": "EPROTO",
            "not asked for": "EPROTO",
            "by a pattern": "a.cloud.test",
            "two that fit": "EPROTO",
        })
    );
}

#[test]
fn names_are_learned_from_answers_by_tcp() {
    let pki = Pki::new();
    let context = server::context(&pki.leaf(Leaf::of(&["one.ssa.test"])));
    let server = Server::tls("127.0.0.1", context, server::echo);
    let agent = Agent::start_with(&by_names(server.addr.port(), &pki, "[\"*.ssa.test\"]"));
    // The length by itself, the answer in two: as resolvers may.
    let script = r#"
listener = socket.create_server(("127.0.0.53", 53))
def by_tcp(name, addr, number=None):
    sock = socket.create_connection(("127.0.0.53", 53))
    resolve.number += 1
    asked = question(name, resolve.number)
    sock.sendall(struct.pack(">H", len(asked))); sock.sendall(asked)
    peer, _client = listener.accept()
    assert peer.recv(2 + len(asked), socket.MSG_WAITALL)[2:] == asked
    reply = answer(question(name, number or resolve.number), addr)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.sendall(struct.pack(">H", len(reply)) + reply[:20]); time.sleep(0.05); peer.sendall(reply[20:])
    sock.recv(2 + len(reply), socket.MSG_WAITALL)
said = [talk("127.0.0.1")]
by_tcp("one.ssa.test", "127.0.0.1", number=7); said.append(talk("127.0.0.1"))
by_tcp("one.ssa.test", "127.0.0.1"); said.append(talk("127.0.0.1"))
out(said)
"#;
    let said = python(&agent, &format!("{ASK}{script}").replace("127.0.0.5", "127.0.0.8"), &[&server.port()]);
    assert_eq!(said, json!(["EPROTO", "EPROTO", "hello"]));
}

#[test]
fn names_on_one_address_are_each_services_own() {
    let pki = Pki::new();
    let context = server::context(&pki.leaf(Leaf::of(&["one.ssa.test", "two.ssa.test"])));
    let server = Server::tls("127.0.0.1", context, |mut stream| {
        let _gone = stream.read(&mut [0; 10]);
        let name = stream.ssl().servername(openssl::ssl::NameType::HOST_NAME).unwrap_or("none").to_owned();
        let _gone = stream.write_all(name.as_bytes());
        let _gone = stream.shutdown();
    });
    let config = by_names(server.addr.port(), &pki, "[\"*.ssa.test\"]");
    let (one, two) = (Agent::start_with(&config), Agent::start_with(&config));
    let script = format!(
        "{}resolve(args[1], '127.0.0.1')\nout(talk('127.0.0.1'))",
        ASK.replace("127.0.0.53", "127.0.0.63").replace("127.0.0.54", "127.0.0.64")
    );
    assert_eq!(python(&one, &script, &[&server.port(), "one.ssa.test"]), json!("one.ssa.test"));
    assert_eq!(python(&two, &script, &[&server.port(), "two.ssa.test"]), json!("two.ssa.test"));
    assert_eq!(
        python(&one, &format!("{ASK}out(talk('127.0.0.1'))").replace("127.0.0.5", "127.0.0.7"), &[&server.port()]),
        json!("one.ssa.test")
    );
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// What listens on a port of 127.0.0.1 is served as TLS.
fn served(port: u16, pki: &Pki) -> String {
    let (chain, key) = pki.write("served", &pki.leaf(Leaf::of(&[NAME])));
    format!(
        "[[rule]]\nname = \"web\"\ndirection = \"in\"\nport = {port}\n\
         credentials = {{ chain = \"{chain}\", key = \"{key}\" }}\n"
    )
}

const SERVE: &str = r#"
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(self.client_address[:2]).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
host, port = args[0], int(args[1])
server = http.server.ThreadingHTTPServer((host, port), Handler)
out("ready")
server.serve_forever()
"#;

fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "--max-time", "10"]).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn unmodified_http_server_is_served_as_tls_and_sees_its_clients() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(&served(port, &pki));
    let sniffer = Sniffer::start();
    let mut app = App::start(&agent, SERVE, &["127.0.0.1", &port.to_string()]);
    assert_eq!(app.said(), json!("ready"));
    let resolve = format!("{NAME}:{port}:127.0.0.1");
    let url = format!("https://{NAME}:{port}/");
    let mut said = String::new();
    eventually("it is served", Duration::from_secs(10), || {
        let output = curl(&["--cacert", &pki.ca(), "--resolve", &resolve, "--local-port", "20000-30000", &url]);
        said = text(&output);
        output.status.success()
    });
    let came: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(came[0], json!("127.0.0.1"));
    assert!((20000..=30000).contains(&came[1].as_u64().unwrap()), "the client's own port, not the agent's: {said}");
    let plain = curl(&[&format!("http://127.0.0.1:{port}/")]);
    assert!(!plain.status.success(), "{}", text(&plain));
    drop(sniffer.stop());
}

#[test]
fn ruled_listener_serves_no_plaintext_while_the_agent_is_dead() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let mut agent = Agent::start_with(&served(port, &pki));
    let mut app = App::start(&agent, SERVE, &["0.0.0.0", &port.to_string()]);
    assert_eq!(app.said(), json!("ready"));
    let (resolve, url) = (format!("{NAME}:{port}:127.0.0.1"), format!("https://{NAME}:{port}/"));
    let ca = pki.ca();
    let good = || curl(&["--cacert", &ca, "--resolve", &resolve, &url]).status.success();
    eventually("it is served", Duration::from_secs(10), good);
    agent.kill();
    let plain =
        Command::new("curl").args(["-sS", "--max-time", "2", &format!("http://127.0.0.1:{port}/")]).output().unwrap();
    assert!(!plain.status.success(), "{}", text(&plain));
    agent.restart();
    eventually("it is served again", Duration::from_secs(10), good);
    // The rule is taken back: plain, as if nothing had been; and then put in force again.
    agent.configure("");
    assert!(agent.reload().0);
    eventually("it is plain", Duration::from_secs(10), || {
        curl(&[&format!("http://127.0.0.1:{port}/")]).status.success()
    });
    agent.configure(&served(port, &pki));
    assert!(agent.reload().0);
    eventually("it is served anew", Duration::from_secs(10), good);
}

#[test]
fn rules_end_with_the_agent_that_is_told_to_stop() {
    let (pki, server) = echo();
    let port = closed_port("127.0.0.1");
    let mut agent = Agent::start_with(&format!("{}{}", served(port, &pki), out(server.addr.port(), &pki, "")));
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
fn listener_that_was_there_before_its_rule_is_closed_to_plaintext() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let mut agent = Agent::start();
    let mut app = App::start(&agent, SERVE, &["127.0.0.1", &port.to_string()]);
    assert_eq!(app.said(), json!("ready"));
    let plain = || {
        let url = format!("http://127.0.0.1:{port}/");
        Command::new("curl").args(["-sS", "--max-time", "2", &url]).output().unwrap().status.success()
    };
    assert!(plain());
    agent.configure(&served(port, &pki));
    assert!(agent.reload().0);
    assert!(!plain());
}

#[test]
fn multipath_listener_can_not_be_served_and_says_so() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(&served(port, &pki));
    let script = r#"
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
try: sock.bind(("127.0.0.1", int(args[0]))); out("bound")
except OSError as error: out(errno.errorcode[error.errno])
"#;
    let said = python(&agent, script, &[&port.to_string()]);
    assert!(said == json!("EPROTO") || said == json!("EPROTONOSUPPORT"), "{said}");
}

#[test]
fn check_says_what_becomes_of_a_connection() {
    let pki = Pki::new();
    let agent = Agent::start_with(&out(6379, &pki, ""));
    let app = App::start(&agent, "out(1); wait()", &[]);
    let check = |to: &str| {
        let output = Command::new(ssa_tests::agent::program())
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

#[test]
fn listener_is_free_again_for_others() {
    // Nothing of a rule stays with a port after its agent.
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    drop(Agent::start_with(&served(port, &pki)));
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    drop((listener, client));
}
