//! Pods of Kubernetes: selected by what the API server says of them, found by their cgroups.
//!
//! The API server is one of the tests' own, which speaks the watch protocol; cgroups are laid out as the kubelet does.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use ssa_tests::{
    agent::{Agent, executable},
    app::{App, is_unserved, programs},
    cgroup::Cgroup,
    config::Config,
    eventually, few, server,
    sniffer::{Sniffer, holds, ports},
    starts,
};

const NAME: &str = "peer.ssa.test";
const FIRST: &str = "0d3f1d5a-93a5-4c5e-b0a8-3b1f8d1c6a01";
const SECOND: &str = "0d3f1d5a-93a5-4c5e-b0a8-3b1f8d1c6a02";
const THIRD: &str = "0d3f1d5a-93a5-4c5e-b0a8-3b1f8d1c6a03";
const CONTAINER: &str = "5f1c0e7d8a9b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9d";

/// A tree of cgroups, which goes with the test. Only one test has one at a time: for an agent whose API server knows
/// nothing of another's pods, those stay undecided.
struct Tree {
    cgroup: Cgroup,
    _turn: MutexGuard<'static, ()>,
}

impl Tree {
    fn new(name: &str) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self { cgroup: Cgroup::absent(name), _turn: turn }
    }

    /// Pod and container as the kubelet lays them out with the cgroup driver `systemd`, and containerd below it.
    fn by_systemd(&self, class: &str, uid: &str) -> (PathBuf, PathBuf) {
        let uid = uid.replace('-', "_");
        let pod =
            self.cgroup.path().join(format!("kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{uid}.slice"));
        let container = pod.join(format!("cri-containerd-{CONTAINER}.scope"));
        (pod, container)
    }

    /// Pod and container as with the cgroup driver `cgroupfs`.
    fn by_cgroupfs(&self, class: &str, uid: &str) -> (PathBuf, PathBuf) {
        let pod = self.cgroup.path().join(format!("kubepods/{class}/pod{uid}"));
        let container = pod.join(CONTAINER);
        (pod, container)
    }
}

struct ApiServer {
    child: Child,
    stdin: ChildStdin,
    port: u16,
    requests: mpsc::Receiver<Value>,
}

impl ApiServer {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .arg(programs().join("apiserver.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.next().unwrap().parse().unwrap();
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || lines.for_each(|line| drop(sender.send(serde_json::from_str(&line).unwrap()))));
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin, port, requests }
    }

    fn say(&mut self, command: Value) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    fn put(&mut self, uid: &str, labels: Value) {
        let name = format!("pod-{}", &uid[34..]);
        self.say(json!(["put", {"name": name, "namespace": "shop", "uid": uid, "labels": labels}]));
    }

    /// Writes the configuration of a client of it, and returns its path.
    fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let path = folder.join("config");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Waits for a request of this kind.
    fn was_asked(&self, watch: bool) {
        let wanted = if watch { json!("true") } else { Value::Null };
        loop {
            let request = self.requests.recv_timeout(ssa_tests::long(Duration::from_secs(30))).expect("it is asked");
            assert_eq!(request[1], "spec.nodeName=node-1", "{request}");
            if request[2] == wanted {
                return;
            }
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn attached(agent: &Agent) -> Vec<PathBuf> {
    let output = Command::new(executable()).args(["list", "--json", "--agent"]).arg(agent.cgroup()).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list.as_array().unwrap().iter().map(|one| PathBuf::from(one["cgroup"].as_str().unwrap())).collect()
}

#[test]
fn pods_are_served_by_labels_that_the_api_server_tells() {
    let (pki, server) = server::echo_peer(NAME);
    let tree = Tree::new("labels");
    let mut api = ApiServer::start();
    let on = || json!({"ssa.dev/tls": "enabled", "app": "web"});
    api.put(FIRST, on());
    api.put(SECOND, json!({"app": "web"}));
    let (first, first_container) = tree.by_systemd("burstable", FIRST);
    let (second, second_container) = tree.by_systemd("besteffort", SECOND);
    for container in [&first_container, &second_container] {
        fs::create_dir_all(container).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = api.kubeconfig(folder.path());
    let mut agent = Agent::absent();
    agent.configure("[[service]]\npod = { namespace = 'sh*', selector = 'ssa.dev/tls=enabled,app in (web,db)' }");
    let start = |agent: &mut Agent| {
        let mut command = Command::new(executable());
        command.env("KUBECONFIG", &kubeconfig).env("NODE_NAME", "node-1");
        agent.restart_by(command);
    };
    start(&mut agent);
    let serves = |agent: &Agent, path: &Path, is: bool| {
        let what = format!("{} is {}served", path.display(), if is { "" } else { "not " });
        eventually(&what, Duration::from_secs(20), || attached(agent).contains(&path.to_owned()) == is);
    };
    let fetch = |container: &Path| {
        let mut command = Command::new(executable());
        command.arg("exec").arg("--plaintext").arg("--cgroup").arg(container).args(["--", "python3"]);
        let script = "port, name_, ca = args\ntry: out(connect(tls(name_, ca), '127.0.0.1', port)['result'])\n\
                      except OSError as error: out(name(error.errno))";
        App::start_by(command, script, &[&server.port(), NAME, &pki.ca()]).finish()
    };

    serves(&agent, &first, true);
    assert!(!attached(&agent).contains(&second));
    assert_eq!(fetch(&first_container), "ok");
    assert!(is_unserved(&fetch(&second_container)));

    // Labels change both ways.
    api.put(SECOND, on());
    serves(&agent, &second, true);
    assert_eq!(fetch(&second_container), "ok");
    api.put(FIRST, json!({"ssa.dev/tls": "disabled"}));
    serves(&agent, &first, false);
    assert!(is_unserved(&fetch(&first_container)));
    eventually("the log says so", Duration::from_secs(5), || agent.log().contains("no rule selects the pod any more"));

    // A pod that is known before its cgroup is made, by the other driver: served before anything runs in it.
    api.put(THIRD, on());
    let (third, third_container) = tree.by_cgroupfs("burstable", THIRD);
    fs::create_dir_all(&third_container).unwrap();
    serves(&agent, &third, true);
    assert_eq!(fetch(&third_container), "ok");

    // Versions are too old; connections are cut: what has changed meanwhile is seen in the new list.
    while api.requests.try_recv().is_ok() {}
    api.say(json!(["gone"]));
    api.put(FIRST, on());
    api.was_asked(false);
    api.was_asked(true);
    serves(&agent, &first, true);
    api.say(json!(["drop"]));
    api.was_asked(true);
    api.put(SECOND, json!({}));
    serves(&agent, &second, false);

    // What was attached before a crash is taken up, and let go if no rule is for it any more.
    agent.kill();
    api.put(FIRST, json!({}));
    start(&mut agent);
    serves(&agent, &first, false);
    serves(&agent, &third, true);
    assert_eq!(fetch(&third_container), "ok");

    // A deleted pod is let go with its cgroup.
    api.say(json!(["delete", THIRD]));
    fs::remove_dir(&third_container).unwrap();
    fs::remove_dir(&third).unwrap();
    serves(&agent, &third, false);
}

#[test]
fn container_that_connects_at_once_speaks_tls() {
    let count = few(30);
    let (pki, server) = server::echo_peer(NAME);
    let tree = Tree::new("at-once");
    let mut api = ApiServer::start();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::absent();
    let rule = Config::rule("out").to("127.0.0.1", server.addr.port()).hostname(NAME).trust_only(&pki.ca());
    agent.configure(rule.set("service.pod.selector", "app=web"));
    let mut command = Command::new(executable());
    command.env("KUBECONFIG", api.kubeconfig(folder.path())).env("NODE_NAME", "node-1");
    agent.restart_by(command);
    let sniffer = Sniffer::of({
        let port = server.addr.port();
        move |packet| ports(packet).is_some_and(|(from, to)| from == port || to == port) && holds(packet, b"canary")
    });
    let uid = |driver: u32, number: usize| format!("0d3f1d5a-93a5-4c5e-b0a8-3b1f8d{driver:02x}{number:04x}");
    // The API server tells of a pod before its container begins, or a moment later.
    let (first, later): (Vec<usize>, Vec<usize>) = (0..count).partition(|number| number % 2 == 0);
    for number in first {
        (0..2).for_each(|driver| api.put(&uid(driver, number), json!({"app": "web"})));
    }
    let telling = std::thread::spawn({
        let later: Vec<String> = later.iter().flat_map(|number| [uid(0, *number), uid(1, *number)]).collect();
        move || {
            std::thread::sleep(Duration::from_millis(300));
            later.iter().for_each(|uid| api.put(uid, json!({"app": "web"})));
            api
        }
    });
    let by_systemd = (0..count).map(|number| tree.by_systemd("burstable", &uid(0, number)).1);
    let by_systemd = starts::start(folder.path(), by_systemd, &server, 5);
    let by_cgroupfs = (0..count).map(|number| tree.by_cgroupfs("besteffort", &uid(1, number)).1);
    let by_cgroupfs = starts::start(folder.path(), by_cgroupfs, &server, 5);
    assert_eq!(sniffer.stop().len(), 0, "plaintext of a container that has just begun");
    starts::assert_all_good(&by_systemd, count);
    starts::assert_all_good(&by_cgroupfs, count);
    drop(telling.join().unwrap());
}

#[test]
fn pod_by_a_rule_is_held_by_an_agent_that_knows_no_pods_yet() {
    let (pki, server) = server::echo_peer(NAME);
    let tree = Tree::new("no-api");
    let mut api = ApiServer::start();
    api.put(FIRST, json!({"app": "web"}));
    let (_pod, container) = tree.by_systemd("burstable", FIRST);
    fs::create_dir_all(&container).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = api.kubeconfig(folder.path());
    let mut agent = Agent::absent();
    let rule = Config::rule("out").to("127.0.0.1", server.addr.port()).hostname(NAME).trust_only(&pki.ca());
    agent.configure(rule.set("service.pod.selector", "app=web"));
    let start = |agent: &mut Agent| {
        let mut command = Command::new(executable());
        command.env("KUBECONFIG", &kubeconfig).env("NODE_NAME", "node-1");
        agent.restart_by(command);
    };
    start(&mut agent);
    let mut python = Command::new(executable());
    python.args(["exec", "--cgroup", container.to_str().unwrap(), "--", "python3"]);
    let script = "from talk import *\nwhile True:\n    out(talk())\n    wait()";
    let mut app = App::start_by(python, script, &[&server.port()]);
    assert_eq!(app.said()[0], "canary-in-plain-sight");
    let sniffer = Sniffer::of({
        let port = server.addr.port();
        move |packet| ports(packet).is_some_and(|(from, to)| from == port || to == port) && holds(packet, b"canary")
    });
    // The next agent has no API server to ask.
    agent.kill();
    drop(api);
    start(&mut agent);
    app.go();
    assert_eq!(app.said(), "EHOSTUNREACH");
    assert_eq!(sniffer.stop().len(), 0, "plaintext of a pod that the agent knows nothing of");
}

#[test]
fn pods_without_a_cluster_are_said_to_be_out_of_reach() {
    let mut agent = Agent::absent();
    agent.configure("[[service]]\npod = { selector = 'a=b' }");
    let mut command = Command::new(executable());
    command.env_remove("KUBECONFIG").env("HOME", "/nonexistent").env("NODE_NAME", "node-1");
    agent.restart_by(command);
    eventually("the log says so", Duration::from_secs(20), || {
        agent.log().contains("neither in a cluster nor is there a KUBECONFIG")
    });
}
