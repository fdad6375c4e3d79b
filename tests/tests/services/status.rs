//! What a running agent tells of itself: `ssa-agent connections` and `status`.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use ssa_tests::{
    agent::{Agent, Ends, executable},
    app::App,
    config::Config,
    eventually,
    pki::{Leaf, Pki},
    server::{self, Server},
};

const NAME: &str = "peer.ssa.test";

fn ask(agent: &Agent, words: &[&str]) -> String {
    let output = Command::new(executable()).args(words).arg("--agent").arg(agent.cgroup()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn connections(agent: &Agent) -> Vec<Value> {
    serde_json::from_str(&ask(agent, &["connections", "--json"])).unwrap()
}

#[test]
fn connections_are_listed_while_they_are_open() {
    let pki = Pki::new();
    let identity = pki.leaf(Leaf::of(&[NAME]));
    let (chain, key) = pki.write("own", &identity);
    let server = Server::echo("127.0.0.1", &identity);
    let agent = Agent::start();
    assert!(connections(&agent).is_empty());
    let script = r#"
port, name, ca, chain, key = args
server = listener(chain, key)
out_of = tls(name, ca); assert connect(out_of, "127.0.0.1", port)["result"] == "ok"
out_of.sendall(b"x" * 1000)
left = 1000
while left: left -= len(out_of.recv(left))
client = tls(name, ca); assert connect(client, "127.0.0.1", server.getsockname()[1])["result"] == "ok"
accepted, _ = server.accept()
accepted.sendall(b"y" * 77)
assert len(client.recv(77, socket.MSG_WAITALL)) == 77
out([os.getpid(), id_of(out_of), id_of(accepted), accepted.getpeername()[1]]); wait()
out_of.close(); client.close(); accepted.close()
out("closed"); wait()
"#;
    let mut app = App::start(&agent, script, &[&server.port(), NAME, &pki.ca(), &chain, &key]);
    let told = app.said();
    let listed = connections(&agent);
    assert_eq!(listed.len(), 3, "{listed:?}");
    let find = |id: &Value| listed.iter().find(|one| one["id"] == *id).unwrap_or_else(|| panic!("{id}: {listed:?}"));
    let out = find(&told[1]);
    let facts = json!([out["direction"], out["pid"], out["uid"], out["name"], out["version"], out["bytes_up"]]);
    assert_eq!(facts, json!(["out", told[0], 0, NAME, "TLS 1.3", 1000]), "{out}");
    assert_eq!(out["peer"], format!("127.0.0.1:{}", server.port()));
    assert_eq!(out["service"], agent.cgroup().to_str().unwrap());
    assert!(
        out["cipher"].as_str().unwrap().starts_with("TLS_") && out["age_seconds"].as_f64().unwrap() >= 0.0,
        "{out}"
    );
    let accepted = find(&told[2]);
    let facts = json!([accepted["direction"], accepted["pid"], accepted["name"], accepted["bytes_up"]]);
    assert_eq!(facts, json!(["in", told[0], NAME, 77]), "{accepted}");
    assert_eq!(accepted["peer"], format!("127.0.0.1:{}", told[3]));
    let table = ask(&agent, &["connections"]);
    assert_eq!(table.lines().count(), 4, "{table}");

    let status: Value = serde_json::from_str(&ask(&agent, &["status", "--json"])).unwrap();
    assert_eq!(json!([status["services"], status["connections"]]), json!([1, 3]), "{status}");
    assert_eq!(status["pid"], agent.pid().as_raw());
    assert!(status["counters"]["syns_held"].as_u64().unwrap() >= 2, "{status}");
    app.go();
    app.said();
    eventually("none is left", Duration::from_secs(5), || connections(&agent).is_empty());
    app.go();
}

/// Answers of the monitor: status line and body.
fn get(at: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// A sample of the metrics, by its name and labels.
fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |line: &&str| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']));
        rest.is_some_and(|_rest| labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\""))))
    };
    text.lines().filter(fits).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn metrics_count_connections_failures_and_reloads() {
    let (pki, server) = server::echo_peer(NAME);
    let agent = Agent::start_with(Config::section("monitor").set("listen", "127.0.0.1:0"));
    let log = agent.log();
    let line = log.lines().find(|line| line.contains("metrics are at")).unwrap();
    let at = line.split("at=").nth(1).unwrap().split_whitespace().next().unwrap();
    assert_eq!(get(at, "/healthz/ready"), ("HTTP/1.1 200 OK".to_owned(), "yes\n".to_owned()));
    assert_eq!(get(at, "/healthz/live").1, "yes\n");
    assert!(get(at, "/other").0.contains("404"));
    let script = r#"
port, name_, ca = args
one = tls(name_, ca)
assert connect(one, "127.0.0.1", port)["result"] == "ok"
one.sendall(b"x" * 1000); left = 1000
while left: left -= len(one.recv(left))
wrong = tls("wrong.test", ca)
assert connect(wrong, "127.0.0.1", port)["result"] == "EPROTO"
out("open"); wait()
one.close(); out("closed"); wait()
"#;
    let mut app = App::start(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    app.said();
    let service = agent.cgroup().to_str().unwrap();
    let of = [("service", service), ("direction", "out")];
    let text = get(at, "/metrics").1;
    assert_eq!(sample(&text, "ssa_connections", &of), 1.0, "{text}");
    assert_eq!(
        sample(&text, "ssa_connections_opened_total", &[of[0], ("version", "TLS 1.3"), ("resumed", "false")]),
        1.0
    );
    assert_eq!(sample(&text, "ssa_connections_refused_total", &[of[0], of[1], ("reason", "tls")]), 1.0);
    assert_eq!(sample(&text, "ssa_sent_bytes_total", &of), 1000.0);
    assert_eq!(sample(&text, "ssa_received_bytes_total", &of), 1000.0);
    assert_eq!(sample(&text, "ssa_handshake_seconds_count", &[of[1]]), 1.0);
    assert_eq!(sample(&text, "ssa_sockets", &[of[0]]), 2.0);
    assert_eq!(sample(&text, "ssa_services", &[]), 1.0);
    assert!(sample(&text, "ssa_hooks_total", &[("counter", "syns_held")]) >= 2.0);
    assert!(sample(&text, "process_open_fds", &[]) > 10.0 && sample(&text, "process_resident_memory_bytes", &[]) > 1e6);
    assert_eq!(sample(&text, "ssa_build_info", &[]), 1.0);
    app.go();
    app.said();
    eventually("it is counted as closed", Duration::from_secs(5), || {
        sample(&get(at, "/metrics").1, "ssa_connections_closed_total", &[of[0], of[1], ("end", "closed")]) == 1.0
    });
    let text = get(at, "/metrics").1;
    assert_eq!((sample(&text, "ssa_connections", &of), sample(&text, "ssa_sent_bytes_total", &of)), (0.0, 1000.0));
    let failures: Vec<Value> = serde_json::from_str(&ask(&agent, &["connections", "--failed", "--json"])).unwrap();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0]["name"], "wrong.test");
    assert!(failures[0]["error"].as_str().unwrap().contains("not for this host"), "{failures:?}");
    assert_eq!(ask(&agent, &["connections", "--failed"]).lines().count(), 2);
    std::fs::write(agent.config(), "[nonsense]\n").unwrap();
    assert!(!agent.reload().0);
    assert_eq!(sample(&get(at, "/metrics").1, "ssa_policy_reload_failures_total", &[]), 1.0);
    app.go();
}

#[test]
fn service_manager_is_told_ready_alive_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut agent = Agent::absent();
    let mut command = Command::new(executable());
    command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "400000");
    agent.restart_by(command);
    let next = || {
        let mut text = [0; 256];
        let read = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..read]).trim().to_owned()
    };
    assert_eq!(next(), "READY=1");
    assert_eq!([next(), next()], ["WATCHDOG=1", "WATCHDOG=1"]);
    agent.stop();
    assert!((0..20).any(|_time| next() == "STOPPING=1"));
}

#[test]
fn each_connection_is_one_line_of_the_journal_with_fields() {
    let (pki, server) = server::echo_peer(NAME);
    let folder = tempfile::tempdir().unwrap();
    // A journal of the test's own: its sockets are below /run, which is private to it.
    let script = r#"
set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/journal /run/log/journal
/lib/systemd/systemd-journald 2>/dev/null & journal=$!
while ! [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
exec 2>"$1/stderr"
export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)
"$2" run --cgroup "$3" --log info -- python3 -c "$4" "$5" "$6" "$7"
journalctl --sync
journalctl -D /run/log/journal -o json TARGET=access > "$1/access"
kill $journal
"#;
    let program_text = "from ssa import *\nport, name_, ca = args\none = tls(name_, ca); assert connect(one, '127.0.0.1', \
                        port)['result'] == 'ok'; one.send(b'abc'); one.recv(3); one.close()\nconnect(tls('wrong.test', ca), \
                        '127.0.0.1', port)";
    let agent = Agent::absent();
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(folder.path())
        .arg(executable())
        .arg(agent.cgroup())
        .args([program_text, &server.port(), NAME, &pki.ca()])
        .env("PYTHONPATH", ssa_tests::app::programs())
        .status()
        .unwrap();
    let stderr = std::fs::read_to_string(folder.path().join("stderr")).unwrap();
    assert!(status.success(), "{stderr}");
    let lines = std::fs::read_to_string(folder.path().join("access")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let find = |message: &str| lines.iter().find(|line| line["MESSAGE"] == message).unwrap();
    let (closed, refused) = (find("closed"), find("refused"));
    for (field, value) in
        [("NAME", NAME), ("DIRECTION", "out"), ("VERSION", "TLS 1.3"), ("BYTES_UP", "3"), ("UID", "0")]
    {
        assert_eq!(closed[format!("SSA_{field}")], value, "{closed}");
    }
    assert_eq!(closed["SSA_SERVICE"], agent.cgroup().to_str().unwrap());
    assert_eq!(
        json!([refused["SSA_REASON"], refused["SSA_ERRNO"], refused["SSA_NAME"]]),
        json!(["tls", "EPROTO", "wrong.test"])
    );
    assert!(refused["SSA_ERROR"].as_str().unwrap().contains("not for this host"), "{refused}");
}

#[test]
fn guards_that_are_left_refuse_until_the_next_run() {
    let (pki, server) = server::echo_peer(NAME);
    let mut agent = Agent::absent();
    let start = |agent: &mut Agent| {
        agent.ends = Ends::AlwaysClosed;
        agent.restart();
    };
    start(&mut agent);
    let script = r#"
port, name_, ca = args
one, two = tls(name_, ca), tls(name_, ca)
assert connect(one, "127.0.0.1", port)["result"] == "ok"
out("open"); wait()
out([attempt(one.recv, 1), attempt(tls, name_, ca), connect(two, "127.0.0.1", port)["result"]]); wait()
out([connect(two, "127.0.0.1", port)["result"], connect(tls(name_, ca), "127.0.0.1", port)["result"]])
"#;
    let mut app = App::start(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    app.said();
    let began = std::time::Instant::now();
    agent.stop();
    assert!(began.elapsed() < ssa_tests::long(Duration::from_secs(5)), "it has waited for the application's sockets");
    app.go();
    assert_eq!(app.said(), json!(["ECONNRESET", "ENOTCONN", "ENOTCONN"]));
    start(&mut agent);
    app.go();
    assert_eq!(app.said(), json!(["ok", "ok"]));
    agent.ends = Ends::Plaintext;
}

#[test]
fn metrics_of_a_service_go_with_it() {
    let (pki, server) = server::echo_peer(NAME);
    let monitor = Config::section("monitor").set("listen", "127.0.0.1:0");
    let agent = Agent::start_with(monitor.and(Config::item("service").set("cgroup", "/ssa-test-*-passing-*")));
    let log = agent.log();
    let line = log.lines().find(|line| line.contains("metrics are at")).unwrap();
    let at = line.split("at=").nth(1).unwrap().split_whitespace().next().unwrap();
    for number in 0..3 {
        let path = agent.cgroup().with_file_name(format!("ssa-test-{}-passing-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let attached = || ask(&agent, &["list", "--json"]).contains(path.to_str().unwrap());
        eventually("it is attached", Duration::from_secs(10), attached);
        let mut command = Command::new(executable());
        command.arg("exec").arg("--plaintext").arg("--cgroup").arg(&path).args(["--", "python3"]);
        let script = "port, name_, ca = args\nout(connect(tls(name_, ca), '127.0.0.1', port)['result'])";
        let came = App::start_by(command, script, &[&server.port(), NAME, &pki.ca()]).finish();
        assert_eq!(came, "ok");
        let of = [("service", path.to_str().unwrap())];
        assert_eq!(sample(&get(at, "/metrics").1, "ssa_connections_opened_total", &of), 1.0);
        std::fs::remove_dir(&path).unwrap();
        eventually("its series are gone", Duration::from_secs(10), || {
            !get(at, "/metrics").1.contains(path.to_str().unwrap())
        });
    }
}
