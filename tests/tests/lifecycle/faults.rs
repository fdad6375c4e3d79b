//! Faults while bytes are under way. A few of each here; `cargo xtask faults` injects many, and makes the table of
//! docs/reliability.md.
//!
//! Whatever happens: what arrives is what was sent, from the first byte on; an end of file comes only where it was sent;
//! nobody on the wire sees plaintext; and the next connection is served.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use ssa_tests::{
    agent::Agent,
    eventually,
    keyed::{CANARY, Keyed, PERIOD, Transfers},
    pki::{Leaf, Pki},
    report, server,
    sniffer::{Sniffer, holds, ports},
    toxic::{self, Toxic},
};

const NAME: &str = "peer.ssa.test";
const MIB: usize = 1 << 20;

/// Whether many faults are to be injected.
fn is_long() -> bool {
    std::env::var_os("SSA_FAULTS").is_some()
}

fn times(short: usize, long: usize) -> usize {
    if is_long() { long } else { ssa_tests::few(short).max(2) }
}

/// Numbers that look random, and are the same in each run (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// An agent, a peer, and an application between which faults happen.
struct Scene {
    pki: Pki,
    peer: Keyed,
    agent: Agent,
    sniffer: Sniffer,
    ends: BTreeMap<String, usize>,
    recoveries: Vec<Duration>,
}

impl Scene {
    fn new() -> Self {
        Self::with("")
    }

    /// Makes a scene with this in the agent's configuration.
    fn with(config: &str) -> Self {
        let pki = Pki::new();
        let peer = Keyed::start(server::context(&pki.leaf(Leaf::of(&[NAME]))));
        let port = peer.server.addr.port();
        let sniffer = Sniffer::of(move |packet| {
            ports(packet).is_some_and(|(from, to)| from == port || to == port) && holds(packet, CANARY)
        });
        let mut agent = Agent::absent();
        agent.configure(config);
        agent.restart_quiet();
        Self { agent, pki, peer, sniffer, ends: BTreeMap::new(), recoveries: Vec::new() }
    }

    fn application(&self) -> Transfers {
        Transfers::start(&self.agent, &self.pki, NAME)
    }

    fn port(&self) -> u16 {
        self.peer.server.addr.port()
    }

    /// Counts how a transfer has ended, which must be one of these ways.
    fn ended(&mut self, said: &Value, allowed: &[&str]) {
        let end = said["end"].as_str().unwrap_or_default().to_owned();
        assert!(allowed.contains(&end.as_str()), "{said}");
        *self.ends.entry(end).or_default() += 1;
    }

    /// Measures how long it takes until the next connection is served.
    fn recover(&mut self, application: &mut Transfers, since: Instant) {
        let port = self.port();
        let mut last = Value::Null;
        eventually("the next connection is served", Duration::from_secs(20), || {
            last = application.run(port, 1000);
            last["end"] == "complete"
        });
        self.recoveries.push(since.elapsed());
    }

    /// Writes the row of the table.
    fn report(self, fault: &str, times: usize) {
        let leaks = self.sniffer.stop().len();
        let wrong = self.peer.wrong();
        assert_eq!((leaks, &wrong[..]), (0, &[][..]), "plaintext on the wire, and what was wrong with what arrived");
        let ends: Vec<_> = self.ends.iter().map(|(end, count)| format!("{end} {count}")).collect();
        report::fault(fault, times, &ends.join(", "), (leaks, wrong.len()), self.recoveries);
    }
}

/// Ends an agent again and again, at some moment of a transfer.
fn agent_ends(fault: &str, seed: u64, count: usize, end: impl Fn(&mut Agent)) {
    let mut scene = Scene::new();
    let mut application = scene.application();
    let mut dice = Dice(seed);
    for _ in 0..count {
        let port = scene.port();
        application.begin(port, usize::MAX >> 1, 0.0);
        sleep(Duration::from_micros(dice.below(60_000)));
        end(&mut scene.agent);
        let since = Instant::now();
        let mut said = application.said_within(ssa_tests::long(Duration::from_secs(1)));
        let connected = said.as_ref().is_some_and(|said| said == "connected");
        if connected {
            said = application.said_within(ssa_tests::long(Duration::from_secs(1)));
            scene.ended(&said.expect("it is reset within a second"), &["ECONNRESET"]);
            scene.agent.restart();
        } else {
            // It came too late for this agent, or is held until the next one refuses it; or serves it, if the SYN that it
            // sees is the first that it knows of.
            scene.agent.restart();
            let mut said = said.unwrap_or_else(|| application.said());
            if said == "connected" {
                *scene.ends.entry("served by the next agent".to_owned()).or_default() += 1;
                scene.agent.kill();
                said = application
                    .said_within(ssa_tests::long(Duration::from_secs(1)))
                    .expect("it is reset within a second");
                scene.agent.restart();
            }
            scene.ended(&said, &["ENOTCONN", "EHOSTUNREACH", "ECONNREFUSED", "ECONNRESET"]);
        }
        scene.recover(&mut application, since);
    }
    scene.report(fault, count);
}

#[test]
fn agent_killed_in_mid_transfer_resets() {
    agent_ends("agent: SIGKILL", 0x5eed, times(20, 1000), Agent::kill);
}

#[test]
fn agent_that_panics_in_mid_transfer_resets() {
    let abort = |agent: &mut Agent| {
        agent.signal(Signal::SIGABRT);
        agent.wait_for_end();
    };
    agent_ends("agent: SIGABRT, as a panic", 0xab027, times(5, 100), abort);
}

#[test]
fn agent_stopped_in_mid_transfer_goes_on() {
    let mut scene = Scene::new();
    let mut application = scene.application();
    let mut dice = Dice(0x570b);
    let count = times(5, 100);
    for _ in 0..count {
        application.begin(scene.port(), 4 * MIB, 0.0);
        sleep(Duration::from_micros(dice.below(30_000)));
        scene.agent.signal(Signal::SIGSTOP);
        sleep(Duration::from_millis(50));
        scene.agent.signal(Signal::SIGCONT);
        let since = Instant::now();
        let said = whole(&mut application);
        scene.ended(&said, &["complete"]);
        scene.recover(&mut application, since);
    }
    scene.report("agent: SIGSTOP for 50 ms", count);
}

/// Waits for the end of a transfer that was begun; how it ended.
fn whole(application: &mut Transfers) -> Value {
    loop {
        let said = application.said();
        if said != "connected" {
            return said;
        }
    }
}

#[test]
fn application_killed_in_mid_transfer_is_cleaned_up() {
    let mut scene = Scene::new();
    let mut dice = Dice(0x9409);
    let count = times(5, 200);
    for _ in 0..count {
        let mut application = scene.application();
        application.begin(scene.port(), usize::MAX >> 1, 0.0);
        sleep(Duration::from_micros(dice.below(60_000)));
        drop(application);
        *scene.ends.entry("killed".to_owned()).or_default() += 1;
    }
    let mut application = scene.application();
    scene.recover(&mut application, Instant::now());
    drop(application);
    for map in ["CONNECTIONS", "CONTEXTS", "PATHS"] {
        let agent = &scene.agent;
        eventually("nothing is left of them", Duration::from_secs(20), || agent.entries(map) == 0);
    }
    scene.report("application: SIGKILL", count);
}

#[test]
fn bad_networks_lose_no_byte_and_no_end() {
    let late = Duration::from_millis(2);
    let all: [(&str, Toxic, usize, &[&str]); 6] = [
        ("network: 2 ms late", Toxic::Latency(late), MIB, &["complete"]),
        ("network: pieces of 7 bytes", Toxic::Slices(7), MIB / 8, &["complete"]),
        ("network: 2 MiB/s", Toxic::Bandwidth(2 * MIB), MIB, &["complete"]),
        ("network: a FIN that nobody sent", Toxic::Cut(MIB / 2), 4 * MIB, &["ECONNRESET", "EPIPE"]),
        ("network: a reset", Toxic::Reset(MIB / 2), 4 * MIB, &["ECONNRESET", "EPIPE"]),
        ("network: an end that comes 300 ms late", Toxic::SlowClose(150 * late), MIB, &["complete"]),
    ];
    for (fault, toxic, total, allowed) in all {
        let mut scene = Scene::new();
        let proxy = toxic::proxy(scene.peer.server.addr, toxic);
        let mut application = scene.application();
        let count = times(2, 50);
        for _ in 0..count {
            application.begin(proxy.addr.port(), total, 0.0);
            let said = whole(&mut application);
            scene.ended(&said, allowed);
            scene.recover(&mut application, Instant::now());
        }
        scene.report(fault, count);
    }
}

#[test]
fn handshake_cut_at_any_byte_is_refused() {
    let mut scene = Scene::new();
    let mut application = scene.application();
    let mut dice = Dice(0xcafe);
    let count = times(10, 500);
    for turn in 0..count {
        let at = dice.below(2500) as usize;
        let toxic = if turn % 2 == 0 { Toxic::Cut(at) } else { Toxic::Reset(at) };
        let proxy = toxic::proxy(scene.peer.server.addr, toxic);
        application.begin(proxy.addr.port(), 10 * PERIOD, 0.0);
        let said = whole(&mut application);
        // A client of TLS 1.3 is done before its peer is: the reset may come before connect has returned, and shutdown(2) of a
        // socket that was reset gives ENOTCONN.
        let last = if said["connected"] == true { "ENOTCONN" } else { "EPROTO" };
        scene.ended(&said, &["ECONNRESET", "EPIPE", last]);
    }
    scene.recover(&mut application, Instant::now());
    scene.report("network: cut or reset in the handshake", count);
}

/// A table of nftables that goes when it is dropped.
struct Table(String);

impl Table {
    fn new(port: u16, verdict: &str) -> Self {
        let name = format!("ssa-fault-{port}");
        let rules = format!(
            "table inet {name} {{ chain in {{ type filter hook input priority 0; tcp dport {port} {verdict}; tcp sport {port} {verdict}; }}\n}}"
        );
        let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is installed");
        child.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("it reads");
        assert!(child.wait().expect("it is our child").success());
        Self(name)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let _gone = Command::new("nft").args(["delete", "table", "inet", &self.0]).status();
    }
}

#[test]
fn lost_and_rejected_packets_lose_no_byte() {
    // The kernel sends a SYN again after one, three and seven seconds.
    let mut scene = Scene::with("[time]\nconnect_seconds = 20\nhandshake_seconds = 20\n");
    let mut application = scene.application();
    let count = times(2, 50);
    let table = Table::new(scene.port(), "numgen random mod 100 < 3 drop");
    for _ in 0..count {
        application.begin(scene.port(), MIB, 0.0);
        let said = whole(&mut application);
        scene.ended(&said, &["complete"]);
    }
    drop(table);
    scene.recover(&mut application, Instant::now());
    scene.report("network: 3 % of the packets lost", count);

    let mut scene = Scene::new();
    let mut application = scene.application();
    for _ in 0..count {
        application.begin(scene.port(), usize::MAX >> 1, 0.0);
        assert_eq!(application.said(), json!("connected"));
        sleep(Duration::from_millis(20));
        let table = Table::new(scene.port(), "tcp flags & rst == 0 reject with tcp reset");
        let since = Instant::now();
        let said = application.said();
        scene.ended(&said, &["ECONNRESET", "EPIPE"]);
        drop(table);
        scene.recover(&mut application, since);
    }
    scene.report("network: rejected by a firewall", count);
}

/// strace, which makes system calls of an agent fail until it is dropped.
struct Injected(Child);

impl Injected {
    fn new(agent: &Agent, what: &str) -> Self {
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={what}"), "-p", &agent.pid().to_string()])
            .spawn()
            .expect("strace is installed");
        // It is there when the agent's threads are traced.
        let status = format!("/proc/{}/status", agent.pid());
        eventually("strace is attached", Duration::from_secs(10), || {
            let text = std::fs::read_to_string(&status).expect("the agent runs");
            !text.contains("TracerPid:\t0")
        });
        Self(child)
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        // It lets go of what it traces.
        let _gone = kill(Pid::from_raw(i32::try_from(self.0.id()).expect("pids are small")), Signal::SIGTERM);
        let _gone = self.0.wait();
    }
}

#[test]
fn failing_system_calls_of_the_agent_lose_no_byte() {
    let all = [
        "bpf:error=ENOMEM:when=3+5",
        "socket:error=EMFILE:when=1+3",
        "connect:error=ENOBUFS:when=2+3",
        "sendto:error=ENOBUFS:when=2+4",
        "recvfrom:error=ENOMEM:when=5+7",
        "writev:error=ENOMEM:when=9+11",
        "accept4:error=ECONNABORTED:when=2+3",
        "setsockopt:error=ENOBUFS:when=4+7",
        "openat,openat2:error=EMFILE:when=2+5",
        "clone3,clone:error=EAGAIN:when=2+3",
        "epoll_ctl:error=ENOMEM:when=5+9",
        "getrandom:error=EAGAIN:when=1+2",
    ];
    let allowed =
        ["complete", "EHOSTUNREACH", "EPROTO", "ENETUNREACH", "ECONNREFUSED", "ECONNRESET", "EPIPE", "ETIMEDOUT"];
    let count = times(3, 40);
    let mut scene = Scene::new();
    for what in all {
        let mut application = scene.application();
        let injected = Injected::new(&scene.agent, what);
        for _ in 0..count {
            application.begin(scene.port(), MIB / 4, 0.0);
            let said = whole(&mut application);
            eprintln!("{what}: {said}");
            scene.ended(&said, &allowed);
        }
        drop(injected);
        scene.recover(&mut application, Instant::now());
    }
    for map in ["CONNECTIONS", "CONTEXTS", "PATHS", "LEGS"] {
        let agent = &scene.agent;
        eventually("nothing is left of them", Duration::from_secs(20), || agent.entries(map) == 0);
    }
    scene.report("agent: system calls fail", count * all.len());
}
