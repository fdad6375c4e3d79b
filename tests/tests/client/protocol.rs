//! `socket(..., IPPROTO_TLS)`, where the kernel lets an eBPF program allow it (6.6 and later, with tracing programs);
//! elsewhere the agent says so, and options make TLS sockets as ever.
//!
//! Tests that are ignored need such a kernel: `cargo xtask vm` runs them, and so does CI.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use openssl::ssl::{SslConnector, SslMethod};
use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{App, command, compile, programs, python},
    eventually,
    pki::{Leaf, Pki},
    server::{self, Server},
};

const NAME: &str = "peer.ssa.test";

/// Whether such sockets must be had here: `SSA_TRACING` says that tracing programs load, as in `cargo xtask vm`.
fn can_be_had() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(['.', '-']).take(2).map(|part| part.parse().unwrap()).collect();
    std::env::var_os("SSA_TRACING").is_some() && numbers >= vec![6, 6]
}

#[test]
fn agent_says_once_that_protocol_sockets_can_not_be_had() {
    let agent = Agent::start();
    let count = agent.log().matches("socket(..., IPPROTO_TLS) can't be had").count();
    assert_eq!(count, usize::from(!can_be_had()), "{}", agent.log());
    let script = r#"
came = [attempt(socket.socket, socket.AF_INET, socket.SOCK_STREAM, IPPROTO_TLS)]
sock = tls("peer.ssa.test")
out(came + [sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)])
"#;
    let came = python(&agent, script, &[]);
    // A socket that an option has made a TLS socket is TCP to whoever asks.
    assert_eq!(came, json!([if can_be_had() { "ok" } else { "EPROTONOSUPPORT" }, 6]));
}

/// A small application in three languages that know nothing of TLS.
struct Languages {
    _folder: tempfile::TempDir,
    /// Name, executable, and script if it needs one.
    each: [(&'static str, String, Option<&'static str>); 3],
}

impl Languages {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = compile(folder.path(), &programs().join("protocol.c"), "cc", &["-Wall", "-Werror"]);
        let each = [
            ("C", binary.to_string_lossy().into_owned(), None),
            ("Python", "python3".to_owned(), Some("protocol.py")),
            ("Perl", "perl".to_owned(), Some("protocol.pl")),
        ];
        Self { _folder: folder, each }
    }
}

/// Runs one of them in the agent's cgroup.
fn start(agent: &Agent, executable: &str, script: Option<&str>, words: [&str; 5]) -> Command {
    let mut command = command(agent, executable);
    command.args(script.map(|script| programs().join(script))).args(words);
    command
}

#[test]
fn protocol_socket_fails_where_the_kernel_knows_none() {
    let agent = Agent::start();
    for (language, executable, script) in &Languages::new().each {
        for nonblock in ["0", "1"] {
            let output =
                start(&agent, executable, *script, ["client", nonblock, "1", NAME, "/nowhere"]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // Where there are such sockets it fails at what comes next: nobody listens at port 1.
            let is_unknown = said.contains("Protocol not supported");
            assert!(!output.status.success() && is_unknown != can_be_had(), "{language}: {said}");
        }
    }
}

#[test]
#[ignore = "needs tracing programs and Linux 6.6: cargo xtask vm"]
fn protocol_socket_connects_and_serves_in_three_languages() {
    assert!(can_be_had());
    let pki = Pki::new();
    let identity = pki.leaf(Leaf::of(&[NAME]));
    let (chain, key) = pki.write("own", &identity);
    let server = Server::echo("127.0.0.1", &identity);
    let agent = Agent::start();
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_ca_file(pki.ca()).unwrap();
    let connector = connector.build();
    for (language, executable, script) in &Languages::new().each {
        for nonblock in ["0", "1"] {
            let client = ["client", nonblock, &server.port(), NAME, &pki.ca()];
            let output = start(&agent, executable, *script, client).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(said.trim(), "hello", "{language}, {nonblock}: {}", String::from_utf8_lossy(&output.stderr));

            let server = ["server", nonblock, "0", &chain, &key];
            let mut child = start(&agent, executable, *script, server).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            let port: u16 = line.trim().parse().unwrap_or_else(|_error| panic!("{language}: {line:?}"));
            let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut stream = connector.connect(NAME, stream).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"hello", "{language}, {nonblock}");
            stream.shutdown().unwrap();
            assert!(child.wait().unwrap().success(), "{language}, {nonblock}");
        }
    }
}

#[test]
fn protocol_is_changed_for_stream_sockets_of_the_cgroup_only() {
    let agent = Agent::start();
    let script = "protocol_kinds.py";
    let inside = python(&agent, script, &[]);
    // The same application, where nothing is attached.
    let mut outside = Command::new("python3");
    outside.current_dir("/");
    let outside = App::start_by(outside, script, &[]).finish();
    let (inside, outside) = (inside.as_array().unwrap(), outside.as_array().unwrap());
    let mut converted = Vec::new();
    for (within, without) in inside.iter().zip(outside) {
        if within != without {
            converted.push(within.clone());
        }
    }
    let flags = |flag: i32| libc::SOCK_STREAM | flag;
    let tls = |family: i32, kind: i32| json!([family, kind, 205, "205"]);
    let all = vec![
        tls(libc::AF_INET, libc::SOCK_STREAM),
        tls(libc::AF_INET6, libc::SOCK_STREAM),
        tls(libc::AF_INET, flags(libc::SOCK_NONBLOCK)),
        tls(libc::AF_INET, flags(libc::SOCK_CLOEXEC)),
    ];
    assert_eq!(converted, if can_be_had() { all } else { Vec::new() });
    let datagram = json!([libc::AF_INET, libc::SOCK_DGRAM, 205, "EPROTONOSUPPORT"]);
    assert!(inside.contains(&datagram), "{inside:?}");
}

#[test]
#[ignore = "needs tracing programs and Linux 6.6: cargo xtask vm"]
fn protocol_socket_is_a_tls_socket_from_the_start() {
    assert!(can_be_had());
    let (pki, server) = server::echo_peer(NAME);
    let plain = Server::tcp("127.0.0.1", |mut stream| {
        let _gone = stream.write_all(b"plain");
    });
    let mut agent = Agent::start();
    let mut app = App::start(&agent, "protocol_sockets.py", &[&server.port(), &plain.port(), NAME, &pki.ca()]);
    let came = app.said();
    assert_eq!(came["fresh"], json!([0, true, "", true, true]), "{came}");
    assert_eq!(came["nameless"], "EPROTO");
    assert_eq!(came["context"], true);
    assert_eq!(came["protocol"], json!([[205], [205, 0], [205, 0, 0, 0], [205, 0, 0, 0]]));
    assert_eq!(came["mixed"], json!([true, true]));
    assert_eq!(came["no descriptor"], json!(["EMFILE"]));
    assert_eq!(came["bad flag"], json!([-1, 6]));
    assert_eq!(came["cgroups"], json!([1, 0]));
    eventually("the agent has kept the path of the CA", Duration::from_secs(5), || agent.entries("PATHS") == 1);
    agent.kill();
    app.go();
    assert_eq!(app.said(), json!(["ENOTCONN", "ENOTCONN", "ENOTCONN"]));
    assert_eq!(plain.accepted(), 0, "nothing went out in plaintext");
    agent.restart();
    app.go();
    assert_eq!(app.finish(), json!(["ok", "ok", 0x304]));
    assert_eq!(agent.entries("SOCKET_CALLS"), 0);
    // No socket is left that counts, or this would wait.
    let cgroup = agent.cgroup().to_owned();
    agent.stop();
    let mut plain = Command::new(ssa_tests::agent::executable());
    plain.args(["exec", "--plaintext", "--cgroup"]).arg(cgroup).args([
        "--",
        "python3",
        "-c",
        "import socket; socket.socket(2, 1, 205)",
    ]);
    let output = plain.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Protocol not supported"), "{output:?}");
}

#[test]
#[ignore = "needs tracing programs and Linux 6.6: cargo xtask vm"]
fn io_uring_makes_only_sockets_that_the_kernel_knows() {
    assert!(can_be_had());
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let binary = compile(folder.path(), &programs().join("uring.c"), "cc", &["-Wall", "-Werror"]);
    let made = |protocol: &str| {
        let output = command(&agent, &binary).arg(protocol).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(made("6"), "6");
    // The kernel asks no eBPF program there.
    assert_eq!(made("205"), format!("-{}", libc::EPROTONOSUPPORT));
    eventually("no mark stays", Duration::from_secs(5), || agent.entries("SOCKET_CALLS") == 0);
}
