//! Profiles: by user, cgroup and executable.

use std::{fs, process::Command};

use nix::sys::signal::Signal;
use serde_json::json;
use ssa_tests::{
    agent::{Agent, executable},
    app::{App, command, python},
};

use crate::fixture::*;

#[test]
fn profiles_are_by_user_cgroup_and_executable() {
    let (pki, server) = echo();
    let mut agent = Agent::absent();
    let cgroup = agent.cgroup().strip_prefix(ssa_tests::agent::cgroup_mount()).unwrap().to_owned();
    agent.restart();
    let python_path = python(&agent, "out(os.readlink('/proc/self/exe'))", &[]);
    let python_path = std::path::PathBuf::from(python_path.as_str().unwrap());
    agent.stop();
    let config = format!(
        r#"
[[profile]]
name = "inner"
cgroup = "{}/inner"
tls.version_min = "1.3"
[[profile]]
name = "user"
user = 12345
sessions.reuse = false
[[profile]]
name = "python"
executable = "{}"
trust.applications_may_bring_cas = true
tls.ciphersuites = ["TLS_AES_128_GCM_SHA256"]
tls.version_min = "1.3"
"#,
        cgroup.display(),
        python_path.display()
    );
    fs::create_dir(agent.cgroup().join("inner")).unwrap();
    agent.configure(&config);
    agent.restart();
    let came = python(&agent, "profiles.py", &[&server.port(), NAME, &pki.ca()]);
    // The hook leaves it to connect, where the executable is known.
    assert_eq!(json!([came["plain"][0], came["plain"][1]]), json!(["ok", "ok"]));
    assert_eq!(came["plain"][2]["result"], "EPROTO", "{came}");
    assert!(came["plain"][2]["error"].as_str().unwrap().contains("TLS_VERSION_MIN is 0x303"), "{came}");
    assert_eq!(came["cipher"], json!(["ok", "TLS_AES_128_GCM_SHA256"]));
    assert_eq!(came["asked"]["result"], "EPROTO");
    assert!(came["asked"]["error"].as_str().unwrap().contains("TLS_AES_256_GCM_SHA384 is no allowed"), "{came}");
    assert_eq!(came["user"][1], "EPROTO", "decided at the call: {came}");

    // A cgroup below, with an executable that no profile names.
    let inner = agent.cgroup().join("inner");
    let copy = tempfile::tempdir().unwrap();
    let other = copy.path().join("python");
    fs::copy(&python_path, &other).unwrap();
    let mut app = App::start_by(command(&agent, &other), "profile_by_cgroup.py", &[inner.to_str().unwrap()]);
    assert_eq!(app.said(), json!(["EPROTO", "ok"]), "by cgroup, at the call");
    let config = agent.config();
    let explain = |pid: u32| {
        let output = Command::new(executable())
            .arg("check")
            .arg("--config")
            .arg(&config)
            .args(["--explain", &pid.to_string()])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let explained = explain(app.pid());
    assert!(explained.contains("# profile inner, because cgroup = "), "{explained}");
    assert!(explained.contains("version_min = \"1.3\"") && !explained.contains("profile python"), "{explained}");
    let explained = explain(std::process::id());
    assert!(explained.contains("no profile is for it"), "{explained}");
    app.go();
    app.finish();
    fs::remove_dir(inner).unwrap();
}

/// Connects, and becomes another user before the agent can look at it.
const DROPS_ITS_USER: &str = r#"
port, host, ca = args
sock = tls(host, open(ca).read())
out("set"); wait()
sock.setblocking(False)
came = attempt(sock.connect, ("127.0.0.1", int(port)))
os.setuid(65534)
out(came); wait()
select.select([], [sock], [], 30)
reason = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
out([errno.errorcode.get(reason, "ok"), sock.getsockopt(IPPROTO_TLS, TLS_ERROR, 256).rstrip(b"\0").decode()])
"#;

fn drops_its_user(profile: &str) -> serde_json::Value {
    let (pki, server) = echo();
    let agent = Agent::start_with(format!(
        "[[profile]]\nname = 'other'\nexecutable = '/usr/bin/other'\n{profile}\ntls.version_min = '1.3'\n"
    ));
    let mut app = App::start(&agent, DROPS_ITS_USER, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(app.said(), "set");
    agent.signal(Signal::SIGSTOP);
    app.go();
    assert_eq!(app.said(), "EINPROGRESS");
    agent.signal(Signal::SIGCONT);
    app.go();
    app.finish()
}

#[test]
fn executable_profile_of_another_user_breaks_no_app_that_drops_its_user() {
    assert_eq!(drops_its_user("user = 4711"), json!(["ok", ""]));
}

#[test]
fn executable_profile_refuses_app_whose_executable_is_not_known_any_more() {
    let came = drops_its_user("");
    assert_eq!(came[0], "EPROTO", "{came}");
    assert!(came[1].as_str().unwrap().starts_with("the policy goes by the application's executable"), "{came}");
}
