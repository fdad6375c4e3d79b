//! Rules for what listens: served as TLS, closed to plaintext, and free again.

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{App, python},
    eventually,
    pki::{Leaf, Pki},
    server::closed_port,
    sniffer::Sniffer,
};

use crate::fixture::*;

#[test]
fn listener_of_a_new_cgroup_is_served() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(served(port, &pki));
    let script = r#"
here = args[2] + "/below"
os.makedirs(here)
with open(here + "/cgroup.procs", "w") as procs: procs.write("0")
import http_server
"#;
    let cgroup = agent.cgroup().to_string_lossy().into_owned();
    let mut app = App::start(&agent, script, &["127.0.0.1", &port.to_string(), &cgroup]);
    assert_eq!(app.said(), json!("ready"));
    let good = || https(NAME, port, &pki).status.success();
    eventually("it is served", Duration::from_secs(10), good);
    app.kill();
    eventually("the cgroup is free", Duration::from_secs(10), || {
        std::fs::remove_dir(format!("{cgroup}/below")).is_ok()
    });
}

#[test]
fn replaced_certificate_of_a_rule_is_taken_up() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(served(port, &pki));
    let mut app = App::start(&agent, SERVE, &["127.0.0.1", &port.to_string()]);
    assert_eq!(app.said(), json!("ready"));
    let ask = |name: &str| https(name, port, &pki).status.success();
    eventually("it is served", Duration::from_secs(10), || ask(NAME));
    assert!(!ask("other.ssa.test"));
    pki.write("served", &pki.leaf(Leaf::of(&["other.ssa.test"])));
    eventually("the new certificate is shown", Duration::from_secs(10), || ask("other.ssa.test"));
}

#[test]
fn unmodified_http_server_is_served_and_sees_its_clients() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(served(port, &pki));
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
    let mut agent = Agent::start_with(served(port, &pki));
    let mut app = App::start(&agent, SERVE, &["0.0.0.0", &port.to_string()]);
    assert_eq!(app.said(), json!("ready"));
    let good = || https(NAME, port, &pki).status.success();
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
    agent.configure(served(port, &pki));
    assert!(agent.reload().0);
    eventually("it is served anew", Duration::from_secs(10), good);
}

#[test]
fn listener_older_than_its_rule_is_closed_to_plaintext() {
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
    agent.configure(served(port, &pki));
    assert!(agent.reload().0);
    assert!(!plain());
}

#[test]
fn multipath_listener_can_not_be_served_and_says_so() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(served(port, &pki));
    let script = r#"
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
try: sock.bind(("127.0.0.1", int(args[0]))); out("bound")
except OSError as error: out(errno.errorcode[error.errno])
"#;
    let said = python(&agent, script, &[&port.to_string()]);
    assert!(said == json!("EPROTO") || said == json!("EPROTONOSUPPORT"), "{said}");
}

#[test]
fn listener_is_free_again_for_others() {
    // Nothing of a rule stays with a port after its agent.
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    drop(Agent::start_with(served(port, &pki)));
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    drop((listener, client));
}
