//! What docs/reliability.md promises: limits, peers that mean ill, and what is full.

use std::{
    ffi::{c_int, c_void},
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};
use serde_json::{Value, json};
use ssa_tests::{
    agent::{Agent, executable},
    app::{App, ECHO_LISTENER, python},
    eventually,
    pki::{Leaf, Pki},
    server::{self, Server, Shared},
};

const NAME: &str = "peer.ssa.test";

fn echo(config: &str) -> (Agent, Pki, Server) {
    let (pki, server) = server::echo_peer(NAME);
    (Agent::start_with(config), pki, server)
}

/// Asks `ssa-agent status --json`.
fn status(agent: &Agent) -> Value {
    let output =
        Command::new(executable()).args(["status", "--json", "--cgroup"]).arg(agent.cgroup()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An application that opens as many connections as it is told to, and one more each time.
const MANY: &str = r#"
name_, ca, port = args
open_ = []
def more():
    sock = tls(name_, ca)
    come = connect(sock, "127.0.0.1", port)
    if come["result"] == "ok": open_.append(sock)
    return [come["result"], come["error"]]
def alive():
    for sock in open_: sock.sendall(b"x")
    return all(sock.recv(1) == b"x" for sock in open_)
"#;

#[test]
fn connection_above_a_limit_is_refused_and_others_live() {
    for (key, of) in
        [("connections", ""), ("connections_per_service", " of the service"), ("connections_per_user", " of the user")]
    {
        let (agent, pki, server) = echo(&format!("[limits]\n{key} = 3\n"));
        let script = format!(
            "{MANY}\nsaid = [more()[0] for _ in range(3)]\nsaid += [more(), more(), alive()]\nopen_.pop().close()\n\
             while (last := more())[0] != 'ok': time.sleep(0.05)\nout(said)"
        );
        let said = python(&agent, &script, &[NAME, &pki.ca(), &server.port()]);
        let why = format!("there are 3 TLS connections{of} already: the limit is `{key}` of [limits]");
        let refused = json!(["EHOSTUNREACH", why]);
        assert_eq!(said, json!(["ok", "ok", "ok", refused, refused, true]));
        let told = || agent.log().matches("the limit is").count();
        eventually("the log says so", Duration::from_secs(5), || told() > 0);
        let told = told();
        assert!((1..=2).contains(&told), "once a second at most: {told}\n{}", agent.log());
    }
}

#[test]
fn client_above_the_limit_is_reset() {
    let pki = Pki::new();
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME])));
    let agent = Agent::start_with("[limits]\nconnections = 2\n");
    let (mut app, port) = listen(&agent, &chain, &key);
    let (mut one, mut two) = (client(&pki, port).unwrap(), client(&pki, port).unwrap());
    assert!(client(&pki, port).is_err());
    for stream in [&mut one, &mut two] {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    drop(one);
    eventually("there is room again", Duration::from_secs(10), || client(&pki, port).is_ok());
    app.kill();
}

/// An application that listens, and echoes on threads.
fn listen(agent: &Agent, chain: &str, key: &str) -> (App, u16) {
    let mut app = App::start(agent, ECHO_LISTENER, &[chain, key]);
    let port = app.said().as_u64().and_then(|port| u16::try_from(port).ok()).unwrap();
    (app, port)
}

fn client(pki: &Pki, port: u16) -> Result<SslStream<TcpStream>, String> {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_ca_file(pki.ca()).unwrap();
    builder.set_verify(SslVerifyMode::PEER);
    let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    builder.build().connect(NAME, stream).map_err(|error| error.to_string())
}

/// Processor time of a process, in ticks of 10 ms.
fn ticks(pid: nix::unistd::Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn agent_without_descriptors_refuses_waits_and_recovers() {
    let (agent, pki, server) = echo("");
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME])));
    let (mut listener, port) = listen(&agent, &chain, &key);
    client(&pki, port).expect("it serves");
    let script = format!("{MANY}\nwhile True:\n    wait(); out([more()[0] for _ in range(10)] + [alive()])");
    let mut app = App::start(&agent, &script, &[NAME, &pki.ca(), &server.port()]);
    let files = |most: usize| {
        let limit = format!("--nofile={most}:");
        let done = Command::new("prlimit").args(["--pid", &agent.pid().to_string(), &limit]).status().unwrap();
        assert!(done.success());
    };
    files(agent.descriptors() + 14);
    app.go();
    let said = app.said();
    let said = said.as_array().unwrap();
    let ok = said.iter().filter(|one| **one == json!("ok")).count();
    assert!((1..10).contains(&ok), "{said:?}");
    assert!(said[..10].iter().all(|one| *one == json!("ok") || *one == json!("EHOSTUNREACH")), "{said:?}");
    assert_eq!(said[10], json!(true), "those that are open live");
    // A client waits, and the agent does not spin.
    let pending = {
        let pki_ca = pki.ca();
        std::thread::spawn(move || {
            let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
            builder.set_ca_file(pki_ca).unwrap();
            let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            builder.build().connect(NAME, stream).map(drop).map_err(|error| error.to_string())
        })
    };
    let before = ticks(agent.pid());
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks(agent.pid()) - before;
    assert!(used < 100, "{used} ticks in two seconds of waiting");
    files(10_000);
    app.go();
    assert!(app.said().as_array().unwrap()[..10].iter().all(|one| *one == json!("ok")));
    // It was reset for want of a descriptor on its way, or is served now.
    let _reset = pending.join().unwrap();
    eventually("clients are served again", Duration::from_secs(10), || client(&pki, port).is_ok());
    app.kill();
    listener.kill();
}

#[test]
fn idle_connection_is_reset_with_a_reason() {
    let (agent, pki, server) = echo("[time]\nidle_seconds = 1\n");
    let script = r#"
name_, ca, port = args
busy, idle = tls(name_, ca), tls(name_, ca)
for sock in (busy, idle): sock.settimeout(30); sock.connect(("127.0.0.1", int(port)))
for _ in range(12):
    busy.sendall(b"x"); assert busy.recv(1) == b"x"; time.sleep(0.2)
try: said = idle.recv(1).decode()
except OSError as reset: said = errno.errorcode[reset.errno]
out([said, error(idle)])
"#;
    let said = python(&agent, script, &[NAME, &pki.ca(), &server.port()]);
    assert_eq!(said, json!(["ECONNRESET", "nothing was sent for 1 s, which is the limit (`idle_seconds` of [time])"]));
}

#[test]
fn full_ring_buffer_gives_enobufs_and_recovers() {
    let (agent, pki, server) = echo("");
    let mut app = App::start(&agent, "events_full.py", &[NAME, &pki.ca(), &server.port()]);
    assert_eq!(app.said(), json!("connected"));
    agent.signal(Signal::SIGSTOP);
    app.go();
    assert_eq!(app.said(), json!(["ENOBUFS", ""]), "and no setting changed");
    agent.signal(Signal::SIGCONT);
    eventually("it was counted", Duration::from_secs(10), || status(&agent)["counters"]["events_lost"] != json!(0));
    app.go();
    assert_eq!(app.said(), json!(["ok", "x", "x"]));
    app.finish();
}

unsafe extern "C" {
    fn SSL_key_update(ssl: *mut c_void, kind: c_int) -> c_int;
    fn SSL_new_session_ticket(ssl: *mut c_void) -> c_int;
    fn SSL_renegotiate(ssl: *mut c_void) -> c_int;
    fn SSL_do_handshake(ssl: *mut c_void) -> c_int;
}

fn raw(stream: &SslStream<TcpStream>) -> *mut c_void {
    use foreign_types::ForeignTypeRef as _;
    stream.ssl().as_ptr().cast()
}

/// Reads until it has as many bytes as it is told.
const READ: &str = r#"
name_, ca, port, wanted = args
sock = tls(name_, ca); sock.settimeout(60)
sock.connect(("127.0.0.1", int(port)))
sock.sendall(b"go"); got = 0
try:
    while got < int(wanted) and (part := sock.recv(65536)): got += len(part)
    sock.sendall(b"thanks")
    out(got)
except OSError as reset: out(errno.errorcode[reset.errno])
"#;

#[test]
fn floods_of_tickets_and_key_updates_leave_nothing() {
    const FLOOD: usize = 20_000;
    let pki = Pki::new();
    let context = server::context(&pki.leaf(Leaf::of(&[NAME])));
    let server = Server::tls("127.0.0.1", context, |mut stream| {
        let _gone = stream.read(&mut [0; 2]);
        for turn in 0..ssa_tests::few(FLOOD) {
            // SAFETY: the stream is alive, and its handshake is finished.
            unsafe {
                SSL_new_session_ticket(raw(&stream));
                // 1: and the other side is asked to update, too.
                SSL_key_update(raw(&stream), c_int::from(turn % 2 == 0));
            }
            if stream.write_all(b"x").is_err() {
                return;
            }
        }
        let _gone = stream.read(&mut [0; 6]);
    });
    let agent = Agent::start();
    let wanted = ssa_tests::few(FLOOD);
    let arguments = [NAME, &pki.ca(), &server.port(), &wanted.to_string()];
    assert_eq!(python(&agent, READ, &arguments), json!(wanted));
    let before = agent.memory_kib();
    for _ in 0..3 {
        assert_eq!(python(&agent, READ, &arguments), json!(wanted));
    }
    let after = agent.memory_kib();
    assert!(after < before + 8192, "{before} KiB became {after}");
}

#[test]
fn renegotiation_is_refused() {
    let pki = Pki::new();
    let context = server::context_with(&pki.leaf(Leaf::of(&[NAME])), |builder| {
        builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    });
    let looked = Shared::<Vec<bool>>::default();
    let same = Arc::clone(&looked);
    let server = Server::tls("127.0.0.1", context, move |mut stream| {
        let _gone = stream.read(&mut [0; 2]);
        let random = |stream: &SslStream<TcpStream>| {
            let mut random = [0; 32];
            stream.ssl().client_random(&mut random);
            random
        };
        let before = random(&stream);
        // SAFETY: the stream is alive, and its handshake is finished.
        unsafe {
            SSL_renegotiate(raw(&stream));
            SSL_do_handshake(raw(&stream));
        }
        // A client that agrees sends another ClientHello now.
        let _gone = stream.read(&mut [0; 6]);
        same.lock().unwrap().push(random(&stream) == before);
    });
    let agent = Agent::start();
    assert_ne!(python(&agent, READ, &[NAME, &pki.ca(), &server.port(), "5"]), json!(5));
    eventually("the server has its answer", Duration::from_secs(5), || !looked.lock().unwrap().is_empty());
    assert_eq!(*looked.lock().unwrap(), [true], "a handshake that nobody has looked at");
}

#[test]
fn handshake_that_drips_ends_at_the_limit() {
    let pki = Pki::new();
    let server = Server::tcp("127.0.0.1", |mut stream| {
        // A record of the longest kind, a byte at a time.
        let _hello = stream.read(&mut [0; 1024]);
        let header = [22, 3, 3, 0x40, 0, 2, 0, 0x3f, 0xfc];
        for byte in header.into_iter().chain(std::iter::repeat(0)) {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let agent = Agent::start();
    let script = "name_, ca, port = args\ncome = connect(tls(name_, ca), '127.0.0.1', port)\nout([come['result'], come['error']])";
    let said = python(&agent, script, &[NAME, &pki.ca(), &server.port()]);
    let why = format!("127.0.0.1:{} did not finish the TLS handshake within 2 s", server.port());
    assert_eq!(said, json!(["EHOSTUNREACH", why]));
}

#[test]
fn enormous_chain_is_refused() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let context = server::context_with(&leaf, |builder| {
        for _ in 0..1000 {
            builder.add_extra_chain_cert(leaf.certificate.clone()).unwrap();
        }
    });
    let server = Server::tls("127.0.0.1", context, server::echo);
    let agent = Agent::start();
    let script = "name_, ca, port = args\ncome = connect(tls(name_, ca), '127.0.0.1', port)\nout([come['result'], come['error']])";
    let said = python(&agent, script, &[NAME, &pki.ca(), &server.port()]);
    assert_eq!(said[0], json!("EPROTO"), "{said}");
    assert!(said[1].as_str().unwrap().contains("excessive message size"), "{said}");
}
