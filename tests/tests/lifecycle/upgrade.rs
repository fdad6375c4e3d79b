//! One agent in the place of another: nothing is refused, nothing is lost.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use openssl::ssl::{SslConnector, SslMethod, SslStream};
use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{App, ECHO_LISTENER, python},
    config::Config,
    eventually,
    keyed::{CANARY, Keyed, Transfers},
    pki::{Leaf, Pki},
    report,
    server::{self, Server},
    sniffer::{Sniffer, holds, ports},
};

const NAME: &str = "peer.ssa.test";

/// Connects, and talks, and counts, until it is told to stop.
const LOAD: &str = "upgrade_load.py";

fn client(pki: &Pki, port: u16) -> Result<SslStream<TcpStream>, String> {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_ca_file(pki.ca()).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = builder.build().connect(NAME, stream).map_err(|error| error.to_string())?;
    echoes(&mut stream)?;
    Ok(stream)
}

fn echoes(stream: &mut SslStream<TcpStream>) -> Result<(), String> {
    stream.write_all(b"hello").map_err(|error| error.to_string())?;
    stream.read_exact(&mut [0; 5]).map_err(|error| error.to_string())
}

#[test]
fn upgrades_under_load_refuse_nobody_and_lose_nothing() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let (chain, key) = pki.write("server", &leaf);
    let echo = Server::echo("127.0.0.1", &leaf);
    let keyed = Keyed::start(server::context(&leaf));
    let wire = keyed.server.addr.port();
    let sniffer = Sniffer::of(move |packet| {
        ports(packet).is_some_and(|(from, to)| from == wire || to == wire) && holds(packet, CANARY)
    });
    let mut agent = Agent::start_quiet();
    let mut listener = App::start(&agent, ECHO_LISTENER, &[&chain, &key, "as text"]);
    let port = u16::try_from(listener.said().as_u64().unwrap()).unwrap();
    let arguments = [NAME, &pki.ca(), &echo.port()];
    let mut load: Vec<App> = (0..2).map(|_| App::start(&agent, LOAD, &arguments)).collect();
    let mut kept = client(&pki, port).expect("it serves");
    let times = if std::env::var_os("SSA_FAULTS").is_some() { 100 } else { 4 };
    let mut took = Vec::new();
    for _ in 0..times {
        // Twice as long as an upgrade takes, at this pace.
        let mut transfers = Transfers::start(&agent, &pki, NAME);
        transfers.begin(keyed.server.addr.port(), 1 << 20, 0.02);
        assert_eq!(transfers.said(), json!("connected"));
        let began = Instant::now();
        agent.upgrade().unwrap();
        took.push(began.elapsed());
        for _ in 0..5 {
            client(&pki, port).expect("clients are served");
        }
        echoes(&mut kept).expect("an open connection of the first agent lives");
        assert_eq!(transfers.said()["end"], "complete");
    }
    let mut connections = 0;
    for one in &mut load {
        one.go();
        let said = one.said();
        connections += said[0].as_u64().unwrap();
        assert!(said[0].as_u64().unwrap() > 10, "{said}");
        assert_eq!(said[1], json!([]), "{said}");
    }
    assert_eq!(keyed.wrong(), Vec::<String>::new());
    let leaks = sniffer.stop().len();
    assert_eq!(leaks, 0);
    report::fault("agent: upgraded under load", times, &format!("complete {connections}"), (leaks, 0), took);
    drop(kept);
    listener.kill();
    eventually("those before end with their connections", Duration::from_secs(20), || agent.is_alone());
    for map in ["CONNECTIONS", "CONTEXTS", "PATHS", "LEGS", "LISTENING", "CHAINS", "CERTIFICATES"] {
        eventually("nothing is left", Duration::from_secs(20), || agent.entries(map) == 0);
    }
    // The last one can be told to end, as any.
    agent.stop();
}

#[test]
fn socket_options_hold_on_connections_of_a_replaced_agent() {
    let pki = Pki::new();
    let echo = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    let mut agent = Agent::start();
    let script = r#"
name_, ca, port = args
sock = tls(name_, ca)
sock.connect(("127.0.0.1", int(port)))
out(1)
wait()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1234)
sock.sendall(b"x")
sock.recv(1)
out(sock.getsockopt(IPPROTO_TLS, TLS_CHOSEN_CIPHER, 100).decode() != "")
wait()
sock.close()
"#;
    let mut app = App::start(&agent, script, &[NAME, &pki.ca(), &echo.port()]);
    assert_eq!(app.said(), json!(1));
    agent.upgrade().unwrap();
    app.go();
    assert_eq!(app.said(), json!(true));
    // The peer leg is the first agent's: its timer is of so many seconds (`ss -o`: 20 min and some).
    eventually("the peer leg has it", Duration::from_secs(5), || {
        let filter = format!("dport = :{}", echo.addr.port());
        let output = Command::new("ss").args(["-tnoH", "state", "established", &filter]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("keepalive,20min")
    });
    assert!(!agent.is_alone());
    app.go();
    eventually("the first one ends with it", Duration::from_secs(10), || agent.is_alone());
}

#[test]
fn agent_whose_successor_can_not_start_goes_on() {
    let pki = Pki::new();
    let echo = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    let mut agent = Agent::start();
    agent.configure(Config::section("tls").set("version_min", "1.9"));
    let why = agent.upgrade().unwrap_err();
    assert!(why.contains("the new agent has ended"), "{why}");
    let talk = format!("{}\nout(connect(tls(args[0], args[1]), '127.0.0.1', args[2])['result'])", "");
    assert_eq!(python(&agent, &talk, &[NAME, &pki.ca(), &echo.port()]), json!("ok"));
    agent.configure("");
    agent.upgrade().unwrap();
    assert_eq!(python(&agent, &talk, &[NAME, &pki.ca(), &echo.port()]), json!("ok"));
    eventually("the first one ends", Duration::from_secs(10), || agent.is_alone());
}

#[test]
fn successor_killed_at_any_step_leaves_the_agent_serving() {
    let pki = Pki::new();
    let echo = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    let mut agent = Agent::start();
    let programs = agent.attached();
    let talk = "out(connect(tls(args[0], args[1]), '127.0.0.1', args[2])['result'])";
    let (mut step, wider) = if std::env::var_os("SSA_FAULTS").is_some() { (1, 0) } else { (40, 20) };
    let (mut at, mut outlived) = (1, 0);
    while outlived == 0 {
        let mut strace = agent.killed_at(at, &["--take-over"], Stdio::null());
        let deadline = Instant::now() + ssa_tests::long(Duration::from_secs(30));
        while matches!(strace.try_wait(), Ok(None)) && !agent.log().contains("another agent serves") {
            assert!(Instant::now() < deadline, "neither killed nor serving at {at}");
            sleep(Duration::from_millis(5));
        }
        if agent.log().contains("another agent serves") {
            outlived = at;
            let log = agent.log();
            let pid = log.rsplit("finishing what is open pid=").next().and_then(|rest| rest.split(' ').next());
            kill(Pid::from_raw(pid.unwrap().parse().unwrap()), Signal::SIGKILL).unwrap();
            strace.wait().unwrap();
        }
        if outlived == 0 {
            eventually("it serves", Duration::from_secs(20), || {
                python(&agent, talk, &[NAME, &pki.ca(), &echo.port()]) == json!("ok")
            });
            assert_eq!(agent.attached(), programs, "killed at {at}");
        }
        at += step;
        step += wider;
    }
    assert!(outlived > 10, "it was killed at none");
    agent.wait_for_end();
    agent.restart();
    assert_eq!(python(&agent, talk, &[NAME, &pki.ca(), &echo.port()]), json!("ok"));
    assert_eq!(agent.attached(), programs);
}

#[test]
fn agent_killed_at_any_step_of_its_start_leaves_nothing_twice() {
    let pki = Pki::new();
    let echo = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    let mut agent = Agent::start_quiet();
    let programs = agent.attached();
    let talk = "out(connect(tls(args[0], args[1]), '127.0.0.1', args[2])['result'])";
    let (mut step, wider) = if std::env::var_os("SSA_FAULTS").is_some() { (20, 1) } else { (60, 2) };
    let (mut at, mut outlived) = (1, [false; 2]);
    while outlived != [true; 2] {
        // With what a killed one has left, and without.
        for (clean, outlived) in outlived.iter_mut().enumerate() {
            if clean == 1 {
                agent.stop()
            } else {
                agent.kill()
            }
            let log = tempfile::NamedTempFile::new().unwrap();
            let mut strace = agent.killed_at(at, &[], log.reopen().unwrap().into());
            let deadline = Instant::now() + ssa_tests::long(Duration::from_secs(30));
            while matches!(strace.try_wait(), Ok(None)) && !*outlived {
                assert!(Instant::now() < deadline, "neither killed nor serving at {at}");
                sleep(Duration::from_millis(5));
                *outlived = std::fs::read_to_string(log.path()).unwrap().contains("ssa-agent: ready");
            }
            if *outlived {
                // Unless it was killed since: then strace has no child.
                sleep(Duration::from_millis(20));
                let children = format!("/proc/{0}/task/{0}/children", strace.id());
                let pid = std::fs::read_to_string(children).ok().and_then(|pid| pid.trim().parse().ok());
                match pid {
                    Some(pid) => kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap(),
                    None => *outlived = false,
                }
                strace.wait().unwrap();
            }
            agent.restart();
            assert_eq!(python(&agent, talk, &[NAME, &pki.ca(), &echo.port()]), json!("ok"), "killed at {at}");
            assert_eq!(agent.attached(), programs, "killed at {at}");
        }
        at += step;
        step *= wider;
    }
    assert!(at > 10, "it was killed at none");
}
