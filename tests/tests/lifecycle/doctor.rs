//! `ssa-agent doctor`, and the rights that the agent needs.

use std::{
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use ssa_tests::{
    agent::{Agent, cgroup_mount, executable},
    app::App,
    eventually,
    pki::{Leaf, Pki},
    server::Server,
};

const NAME: &str = "peer.ssa.test";

/// Report of `doctor`: checks by name, with outcome and advice.
struct Report(Value);

impl Report {
    fn of(output: &Output) -> Self {
        Self(serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}")))
    }

    fn check(&self, name: &str) -> &Value {
        let checks = self.0["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {}", self.0))
    }

    fn failed(&self) -> Vec<&str> {
        let checks = self.0["checks"].as_array().unwrap().iter();
        checks.filter(|check| check["outcome"] == "failed").map(|check| check["name"].as_str().unwrap()).collect()
    }
}

fn doctor(by: &[&str]) -> (Output, Report) {
    let mut words: Vec<String> = by.iter().map(|word| (*word).to_owned()).collect();
    words.extend([executable().to_string_lossy().into_owned(), "doctor".to_owned(), "--json".to_owned()]);
    let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
    let report = Report::of(&output);
    (output, report)
}

/// The agent's own list, from what `doctor` says to a process without any.
fn capabilities() -> Vec<String> {
    let (_output, report) = doctor(&["setpriv", "--inh-caps=-all", "--bounding-set=-all"]);
    let advice = report.check("capabilities")["advice"].as_str().unwrap().to_owned();
    let list = advice.split_once("ambient capabilities: ").unwrap().1;
    let names = list.split("; ").map(|one| one.split(':').next().unwrap().trim_start_matches("CAP_").to_lowercase());
    names.collect()
}

/// Becomes nobody with these capabilities, with a /run and a bpffs of its own.
fn nobody(capabilities: &[String]) -> Command {
    let list = capabilities.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(",");
    let script = format!(
        "mount -t tmpfs none /run && mount -t bpf none /sys/fs/bpf && chmod 1777 /sys/fs/bpf && \
         install -d -o 65534 /run/ssa-agent && \
         exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all,{list} --ambient-caps=-all,{list} \
         --bounding-set=-all,{list} \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(executable());
    command
}

#[test]
fn doctor_passes_a_healthy_machine_and_leaves_nothing() {
    let (output, report) = doctor(&["env"]);
    assert!(output.status.success(), "{}", report.0);
    assert_eq!(report.0["runs"], true);
    assert!(report.failed().is_empty(), "{}", report.0);
    for name in ["kernel", "cgroup v2", "eBPF programs", "loopback", "serving", "fetching over TLS", "refusals"] {
        assert_eq!(report.check(name)["outcome"], "good", "{}", report.0);
    }
    // Another test's doctor may have one at this moment.
    let is_left = || {
        let mut entries = std::fs::read_dir(cgroup_mount()).unwrap().flatten();
        entries.any(|entry| entry.file_name().to_string_lossy().starts_with("ssa-doctor"))
    };
    eventually("no cgroup is left", Duration::from_secs(20), || !is_left());
}

#[test]
fn every_program_loads_within_the_verifiers_limits() {
    let output = Command::new(executable()).args(["doctor", "--programs"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let programs: Vec<(&str, u64)> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, count)| (name, count.parse().unwrap()))
        .collect();
    assert!(programs.len() >= 16, "{text}");
    // The kernel gives up at 1,000,000; a tenth of it means that a loop has lost its bpf_loop.
    assert!(programs.iter().all(|(_name, count)| (1..100_000).contains(count)), "{text}");
    if std::env::var_os("SSA_TRACING").is_some() {
        assert_eq!(text.contains("ssa_protocol"), text.contains("ssa_create "), "{text}");
    }
}

#[test]
fn doctor_names_what_is_missing_and_what_to_do() {
    let (output, report) = doctor(&["setpriv", "--inh-caps=-net_raw", "--bounding-set=-net_raw"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report.0["runs"], false);
    assert!(report.check("capabilities")["found"].as_str().unwrap().contains("CAP_NET_RAW"), "{}", report.0);
    assert_eq!(report.failed(), ["capabilities", "raw sockets"]);

    let (output, report) = doctor(&["unshare", "--net"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report.failed(), ["loopback"]);
    assert!(report.check("loopback")["advice"].as_str().unwrap().contains("ip link set lo up"));

    // A firewall that lets TCP through, but not the errors that end a hold.
    let script = "ip link set lo up && nft 'add table inet t; add chain inet t in { type filter hook input priority 0; }; \
                  add rule inet t in meta l4proto icmp drop' && exec \"$@\"";
    let (output, report) = doctor(&["unshare", "--net", "sh", "-c", script, "sh"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report.failed(), ["refusals"], "{}", report.0);
    assert!(report.check("refusals")["advice"].as_str().unwrap().contains("ICMP"), "{}", report.0);
}

#[test]
fn agent_runs_as_nobody_with_the_capabilities_that_it_names() {
    let capabilities = capabilities();
    assert_eq!(capabilities.len(), 11, "{capabilities:?}");
    let pki = Pki::new();
    let identity = pki.leaf(Leaf::of(&[NAME]));
    let (chain, key) = pki.write("own", &identity);
    let server = Server::echo("127.0.0.1", &identity);
    let mut agent = Agent::absent();
    agent.restart_by(nobody(&capabilities));
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    // Files that only their owner may read, a file of another user, a listener, and another namespace.
    let mut app = App::start(&agent, "agent_as_nobody.py", &[&server.port(), NAME, &pki.ca(), &chain, &key]);
    let came = app.said();
    assert_eq!(came[0]["result"], "ok", "{came}");
    assert_eq!(came[1], 0, "a file that only root may read");
    assert_eq!(came[2], "ok", "{came}");
    assert_eq!(came[3], "x");
    assert_eq!(came[4], "ECONNREFUSED");
    drop(app);
    agent.stop();
}
