//! Connecting to the unspecified address: the agent resolves the host name, as the application would.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::Path,
    thread,
};

use serde_json::{Value, json};
use ssa_tests::{
    agent::Agent,
    app::python,
    pki::{Leaf, Pki},
    server::Server,
};

const NAME: &str = "peer.ssa.test";

/// A name server for A and AAAA (RFC 1035); other names do not exist.
fn name_server(records: &[(&str, &[&str])]) -> Ipv4Addr {
    static COUNT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
    let last = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let addr = Ipv4Addr::new(127, 53, (std::process::id() % 250) as u8, last);
    let socket = UdpSocket::bind((addr, 53)).expect("nobody serves names there");
    let parse = |text: &&str| text.parse::<IpAddr>().expect("an address");
    let records: HashMap<String, Vec<IpAddr>> =
        records.iter().map(|(name, addrs)| ((*name).to_owned(), addrs.iter().map(parse).collect())).collect();
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let answer = answer(&buffer[..len], &records);
            let _gone = socket.send_to(&answer, from);
        }
    });
    addr
}

fn answer(query: &[u8], records: &HashMap<String, Vec<IpAddr>>) -> Vec<u8> {
    const AAAA: u8 = 28;
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let len = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + len]).to_lowercase());
        at += len + 1;
    }
    let question = &query[12..at + 5];
    let wants_v6 = query[at + 2] == AAAA;
    let known = records.get(&labels.join("."));
    let found: Vec<&IpAddr> = known.into_iter().flatten().filter(|addr| addr.is_ipv6() == wants_v6).collect();
    let code = if known.is_some() { 0 } else { 3 };
    let mut message = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, found.len() as u8, 0, 0, 0, 0];
    message.extend_from_slice(question);
    for addr in found {
        // A pointer to the question's name, type, class, a minute to live, and the address.
        let (kind, data) = match addr {
            IpAddr::V4(v4) => (1, v4.octets().to_vec()),
            IpAddr::V6(v6) => (AAAA, v6.octets().to_vec()),
        };
        message.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        message.extend_from_slice(&data);
    }
    message
}

/// Runs a script in a mount namespace with its own resolv.conf and hosts.
fn run(agent: &Agent, folder: &Path, resolv_conf: &str, hosts: &str, script: &str, arguments: &[&str]) -> Value {
    fs::write(folder.join("resolv.conf"), resolv_conf).unwrap();
    fs::write(folder.join("hosts"), hosts).unwrap();
    let prologue = format!(
        r#"
import subprocess
assert libc.unshare(CLONE_NEWNS) == 0
for command in (["mount", "--make-rprivate", "/"], ["mount", "--bind", "{folder}/resolv.conf", "/etc/resolv.conf"],
                ["mount", "--bind", "{folder}/hosts", "/etc/hosts"]):
    subprocess.run(command, check=True)
def dial(name_, addr="0.0.0.0", family=socket.AF_INET, port=None):
    sock = tls(name_, ca, family)
    came = connect(sock, addr, port or args[0])
    return [came["result"], came["error"], sock.getpeername()[0] if came["result"] == "ok" else None]
ca = args[1]
"#,
        folder = folder.display()
    );
    python(agent, &format!("{prologue}{script}"), arguments)
}

#[test]
fn name_is_resolved_by_own_files_and_every_address_tried() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME, "by-hosts.test", "short", "127.0.0.1", "dual.ssa.test"]));
    let server = Server::echo("127.0.0.1", &leaf);
    let names = name_server(&[
        (NAME, &["127.0.0.1"]),
        // Nobody listens at the first two.
        ("dual.ssa.test", &["127.0.0.9", "127.0.0.8", "127.0.0.1", "::1"]),
        ("deaf.ssa.test", &["127.0.0.9", "127.0.0.8"]),
        ("six.ssa.test", &["::1"]),
        ("short.search.test", &["127.0.0.1"]),
        ("wrong.ssa.test", &["127.0.0.1"]),
    ]);
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
out({"dns": dial("peer.ssa.test"), "six": dial("peer.ssa.test", "::", socket.AF_INET6),
     "mapped": dial("peer.ssa.test", "::ffff:0.0.0.0", socket.AF_INET6),
     "hosts": dial("by-hosts.test"), "search": dial("short"), "address": dial("127.0.0.1"),
     "all": dial("dual.ssa.test"), "all six": dial("dual.ssa.test", "::", socket.AF_INET6),
     "deaf": dial("deaf.ssa.test"), "other family": dial("six.ssa.test"), "unknown": dial("nobody.ssa.test"),
     "verified": dial("wrong.ssa.test")})
"#;
    let resolv_conf = format!("search search.test\nnameserver {names}\n");
    let hosts = "127.0.0.1 localhost by-hosts.test\n";
    let came = run(&agent, folder.path(), &resolv_conf, hosts, script, &[&server.port(), &pki.ca()]);
    for case in ["dns", "hosts", "search", "address", "all"] {
        assert_eq!(came[case], json!(["ok", "", "127.0.0.1"]), "{case}");
    }
    for case in ["six", "mapped", "all six"] {
        assert_eq!(came[case], json!(["ok", "", "::ffff:127.0.0.1"]), "{case}");
    }
    let says = |case: &str, errno: &str, text: &str| {
        assert_eq!(came[case][0], errno, "{case}: {came}");
        assert!(came[case][1].as_str().unwrap().contains(text), "{case}: {came}");
    };
    says("deaf", "ECONNREFUSED", "no address of deaf.ssa.test answers: connecting to 127.0.0.9");
    says("other family", "EHOSTUNREACH", "no address found for six.ssa.test");
    says("unknown", "EHOSTUNREACH", "no address found for nobody.ssa.test");
    says("verified", "EPROTO", "not for this host");
}

#[test]
fn silent_name_server_and_missing_files_end_in_time() {
    let pki = Pki::new();
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let silent = Ipv4Addr::new(127, 53, 251, (std::process::id() % 250) as u8);
    let _socket = UdpSocket::bind((silent, 53)).unwrap();
    let script = r#"out([dial("peer.ssa.test", port=443), dial("localhost", port=1)])"#;
    let came = run(
        &agent,
        folder.path(),
        &format!("nameserver {silent}\n"),
        "127.0.0.1 localhost\n",
        script,
        &["1", &pki.ca()],
    );
    assert_eq!(came[0][0], "EHOSTUNREACH", "{came}");
    assert!(came[0][1].as_str().unwrap().contains("no address found for peer.ssa.test within 2 s"), "{came}");
    assert_eq!(came[1][0], "ECONNREFUSED", "{came}");
    let came =
        run(&agent, folder.path(), "# nothing\n", "", r#"out(dial("peer.ssa.test", port=443))"#, &["1", &pki.ca()]);
    assert_eq!(came[0], "EHOSTUNREACH", "{came}");
}
