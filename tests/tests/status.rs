//! What a running agent tells of itself: `ssa-agent connections` and `status`.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use ssa_tests::{
    agent::{Agent, program},
    app::App,
    eventually,
    pki::{Leaf, Pki},
    server::Server,
};

const NAME: &str = "peer.ssa.test";

fn ask(agent: &Agent, words: &[&str]) -> String {
    let output = Command::new(program()).args(words).arg("--agent").arg(agent.cgroup()).output().unwrap();
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
listener = socket.socket()
listener.setsockopt(IPPROTO_TLS, 88, text(chain)); listener.setsockopt(IPPROTO_TLS, 89, text(key))
listener.bind(("127.0.0.1", 0)); listener.listen()
out_of = tls(name, ca); assert connect(out_of, "127.0.0.1", port)["result"] == "ok"
out_of.sendall(b"x" * 1000)
left = 1000
while left: left -= len(out_of.recv(left))
client = tls(name, ca); assert connect(client, "127.0.0.1", listener.getsockname()[1])["result"] == "ok"
accepted, _ = listener.accept()
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
