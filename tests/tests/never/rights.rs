//! No application reads, probes or steers what is not its own: files are opened with exactly the rights of
//! the application that named them, and contexts stay with their user, service and namespace.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use ssa_tests::{
    agent::Agent,
    app::{App, command, compile, python},
    eventually,
    pki::Pki,
    server::{self, Server},
};

const NAME: &str = "peer.ssa.test";

/// An agent, a server, and a copy of its CA that only root can read.
fn secret() -> (Agent, Pki, Server, String) {
    let (pki, server) = server::echo_peer(NAME);
    let path = pki.folder().join("secret.pem");
    fs::copy(pki.ca(), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    (Agent::start(), pki, server, path.to_string_lossy().into_owned())
}

/// Short-cuts of the scripts.
const RIGHTS: &str = r#"
NOBODY = 65534
def drop(uid=NOBODY, groups=()):
    os.setgroups(list(groups)); os.setgid(NOBODY); os.setuid(uid)
def dial(path, port, name_="peer.ssa.test"):
    came = connect(tls(name_, path), "127.0.0.1", port)
    return [came["result"], came["error"].split(": ")[-1]]
"#;

fn run(agent: &Agent, script: &str, arguments: &[&str]) -> Value {
    python(agent, &format!("{RIGHTS}{script}"), arguments)
}

fn denied() -> Value {
    json!(["EPROTO", "Permission denied (os error 13)"])
}

#[test]
fn two_containers_roots_do_not_share_contexts() {
    let (agent, pki, server, _secret) = secret();
    let script = r#"
port, ca = args
owner = tls("peer.ssa.test", ca)
context = owner.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
def adopt():
    return attempt(socket.socket().setsockopt, IPPROTO_TLS, TLS_CONTEXT, context)
here = adopt()
# Made in this namespace, and taken to another: a socket stays where it was made.
taken = socket.socket()
assert libc.unshare(CLONE_NEWNET) == 0
out([here, adopt(), attempt(taken.setsockopt, IPPROTO_TLS, TLS_CONTEXT, context), context.hex()]); wait()
"#;
    let arguments = [server.port(), pki.ca()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut app = App::start(&agent, script, &arguments);
    let came = app.said();
    assert_eq!(
        json!([came[0], came[1], came[2]]),
        json!(["ok", "EINVAL", "ok"]),
        "root's in another network namespace"
    );
    // Another service, by the same root in the same namespace.
    let other = Agent::start();
    let script = "out(attempt(socket.socket().setsockopt, IPPROTO_TLS, TLS_CONTEXT, bytes.fromhex(args[0])))";
    assert_eq!(python(&other, script, &[came[3].as_str().unwrap()]), "EINVAL");
    assert_eq!(python(&agent, script, &[came[3].as_str().unwrap()]), "ok");
    app.go();
    app.finish();
}

#[test]
fn path_is_opened_with_supplementary_groups_of_the_caller() {
    let (agent, pki, server, secret) = secret();
    let grouped = pki.folder().join("grouped.pem");
    fs::copy(pki.ca(), &grouped).unwrap();
    chown(&grouped, Some(0), Some(4242)).unwrap();
    fs::set_permissions(&grouped, fs::Permissions::from_mode(0o640)).unwrap();
    let script = r#"
port, grouped, secret = args
came = []
for groups in ((4242,), ()):
    pid = os.fork()
    if pid == 0:
        drop(groups=groups)
        out([dial(grouped, port), dial(secret, port)])
        os._exit(0)
    os.waitpid(pid, 0)
"#;
    let script = format!("{RIGHTS}{script}");
    let mut app = App::start(&agent, &script, &[&server.port(), grouped.to_str().unwrap(), &secret]);
    assert_eq!(app.said(), json!([["ok", ""], denied()]));
    assert_eq!(app.said(), json!([denied(), denied()]));
    app.finish();
}

#[test]
fn path_is_opened_in_the_applications_root_and_mounts() {
    let (agent, pki, server, _secret) = secret();
    let script = r#"
import subprocess
port, folder = args
assert libc.unshare(CLONE_NEWNS) == 0
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
open("/mnt/mine.pem", "w").write(open(folder + "/ca.pem").read())
came = {"mount": dial("/mnt/mine.pem", port)}
os.chroot(folder)
os.chdir("/")
came["root"] = [
    dial(path, port)[0] for path in ("/ca.pem", "ca.pem", "../../ca.pem", folder + "/ca.pem", "/mnt/mine.pem")
]
out(came)
"#;
    let came = run(&agent, script, &[&server.port(), &pki.folder().to_string_lossy()]);
    assert_eq!(came["mount"], json!(["ok", ""]));
    assert_eq!(came["root"], json!(["ok", "ok", "ok", "EPROTO", "EPROTO"]), "nothing outside of its root");
}

#[test]
fn path_is_opened_without_capabilities_that_root_lacks() {
    let (agent, pki, server, _secret) = secret();
    let others = pki.folder().join("others.pem");
    fs::copy(pki.ca(), &others).unwrap();
    chown(&others, Some(4243), Some(4243)).unwrap();
    fs::set_permissions(&others, fs::Permissions::from_mode(0o600)).unwrap();
    let others = others.to_str().unwrap();
    let script = format!("{RIGHTS}out(dial(args[1], args[0]))");
    let arguments = [&server.port(), others];
    let whole = App::start(&agent, &script, &arguments).finish();
    assert_eq!(whole, json!(["ok", ""]), "root may");
    let mut bounded = command(&agent, "setpriv");
    bounded.args(["--inh-caps=-all", "--bounding-set=-all", "python3"]);
    assert_eq!(App::start_by(bounded, &script, &arguments).finish(), denied(), "without its capabilities not");
    let mut inner = command(&agent, "setpriv");
    inner.args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "--map-root-user", "python3"]);
    let script = format!("{RIGHTS}out([os.getuid(), dial(args[1], args[0])])");
    assert_eq!(App::start_by(inner, &script, &arguments).finish(), json!([0, denied()]));
}

#[test]
fn application_that_execs_a_setuid_binary_gains_nothing() {
    let (agent, pki, server, secret) = secret();
    let source = pki.folder().join("wait.c");
    fs::write(&source, "#include <unistd.h>\nint main(void) { return pause(); }\n").unwrap();
    let binary = compile(pki.folder(), &source, "gcc", &[]);
    chown(&binary, Some(0), Some(0)).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o4755)).unwrap();
    let script = r#"
port, secret, binary = args
mine = socket.socket(); mine.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, text("peer.ssa.test"))
pid = os.fork()
if pid == 0:
    drop()
    os.set_inheritable(mine.fileno(), True)
    mine.setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, text(secret))
    os.execv(binary, [binary])
out(pid); wait()
came = connect(mine, "127.0.0.1", port)
os.kill(pid, signal.SIGKILL)
out([came["result"], came["error"]])
"#;
    let script = format!("{RIGHTS}{script}");
    // Stopped, the agent sees the event only when the process is somebody else.
    agent.signal(Signal::SIGSTOP);
    let mut app = App::start(&agent, &script, &[&server.port(), &secret, binary.to_str().unwrap()]);
    let pid = app.said();
    eventually("the setuid binary runs", Duration::from_secs(10), || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().any(|line| line.split_whitespace().take(3).eq(["Uid:", "65534", "0"]))
    });
    agent.signal(Signal::SIGCONT);
    app.go();
    let came = app.said();
    assert_eq!(came[0], "EPROTO", "{came}");
    assert!(came[1].as_str().unwrap().ends_with("Permission denied (os error 13)"), "{came}");
    app.finish();
}

#[test]
fn application_that_ended_or_changed_user_opens_nothing() {
    let (agent, pki, server, _secret) = secret();
    let script = r#"
port, ca = args
sockets = [socket.socket() for _ in range(2)]
for sock in sockets: sock.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, text("peer.ssa.test"))
out("ready"); wait()
pid = os.fork()
if pid == 0:
    sockets[0].setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, text(ca))
    os._exit(0)
os.waitpid(pid, 0)
sockets[1].setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, text(ca))
drop()
out("set"); wait()
out([[came["result"], came["error"]] for came in (connect(sock, "127.0.0.1", port) for sock in sockets)])
"#;
    let script = format!("{RIGHTS}{script}");
    let mut app = App::start(&agent, &script, &[&server.port(), &pki.ca()]);
    app.said();
    agent.signal(Signal::SIGSTOP);
    app.go();
    app.said();
    agent.signal(Signal::SIGCONT);
    app.go();
    let came = app.said();
    for which in 0..2 {
        assert_eq!(came[which][0], "EPROTO", "{came}");
        assert!(came[which][1].as_str().unwrap().contains("has ended, or become another user"), "{came}");
    }
    app.finish();
}

#[test]
fn odd_files_neither_block_nor_fill_nor_fool_the_agent() {
    let (agent, pki, server, secret) = secret();
    let folder = pki.folder();
    nix::unistd::mkfifo(&folder.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    let huge = fs::File::create(folder.join("huge.pem")).unwrap();
    huge.set_len(100 << 20).unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    std::os::unix::fs::symlink("loop.pem", folder.join("loop.pem")).unwrap();
    fs::write(folder.join("text.pem"), "no certificate\n").unwrap();
    fs::write(folder.join("half.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    run(&agent, "out(dial(args[1], args[0]))", &[&server.port(), &pki.ca()]);
    let before = agent.memory_kib();
    let script = r#"
port, folder, secret = args
opened = open(secret)
came = {}
began = time.monotonic()
for path in ("fifo", "huge.pem", "empty", "loop.pem", "text.pem", "half.pem", "absent.pem"):
    came[path] = dial(f"{folder}/{path}", port)
for path in ("/dev/zero", "/dev/null", "/proc/self/mem", f"/proc/self/fd/{opened.fileno()}", "/proc/1/fd/0", "/"):
    came[path] = dial(path, port)
came["took"] = time.monotonic() - began
came["sane"] = dial(f"{folder}/ca.pem", port)
out(came)
"#;
    let came = run(&agent, script, &[&server.port(), &folder.to_string_lossy(), &secret]);
    for (path, came) in came.as_object().unwrap().iter().filter(|(_path, came)| came.is_array()) {
        let expected = if path == "sane" { "ok" } else { "EPROTO" };
        assert_eq!(came[0], expected, "{path}: {came}");
        assert!(expected == "ok" || came[1] != "", "{path}");
    }
    assert!(came["took"].as_f64().unwrap() < 30.0, "{came}");
    assert!(agent.memory_kib() < before + (20 << 10), "{} KiB", agent.memory_kib() - before);
}

#[test]
fn file_swapped_while_it_is_read_is_one_or_the_other() {
    let (agent, pki, server, _secret) = secret();
    let other = Pki::new();
    let path = pki.folder().join("swapped.pem");
    fs::copy(pki.ca(), &path).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = {
        let (stop, path, good, bad) = (std::sync::Arc::clone(&stop), path.clone(), pki.ca(), other.ca());
        std::thread::spawn(move || {
            let next = path.with_extension("next");
            for turn in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                fs::copy(if turn % 2 == 0 { &bad } else { &good }, &next).unwrap();
                fs::rename(&next, &path).unwrap();
            }
        })
    };
    let script = r#"
came = {}
for _ in range(300):
    result, error_ = dial(args[1], args[0])
    came[result] = came.get(result, 0) + 1
    assert result == "ok" or "unable to get local issuer" in error_ or "issued by" in error_, error_
out(came)
"#;
    let came = run(&agent, script, &[&server.port(), path.to_str().unwrap()]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
    let (ok, refused) = (came["ok"].as_u64().unwrap_or(0), came["EPROTO"].as_u64().unwrap_or(0));
    assert_eq!(ok + refused, 300, "{came}");
}

#[test]
fn pins_and_control_socket_are_closed_to_others() {
    let (agent, _pki, _server, _secret) = secret();
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(agent.cgroup()).unwrap());
    let control = PathBuf::from(format!("/run/ssa-agent/{inode}.sock"));
    let script = r#"
drop()
came = [attempt(os.listdir, args[0]), attempt(open, args[0] + "/CONTEXTS")]
sock = socket.socket(socket.AF_UNIX)
out(came + [attempt(sock.connect, args[1])])
"#;
    let came = run(&agent, script, &[agent.pins().to_str().unwrap(), control.to_str().unwrap()]);
    assert_eq!(came, json!(["EACCES", "EACCES", "EACCES"]));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&agent.pins()), mode(&control)), (0o700, 0o600));
    assert_eq!(mode(&agent.pins().join("CONTEXTS")) & 0o077, 0, "the maps themselves");
}

#[test]
fn path_is_opened_with_the_rights_of_the_application() {
    let (pki, server) = crate::canary::echo();
    let secret = pki.folder().join("secret.pem");
    std::fs::copy(pki.ca(), &secret).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let hidden = pki.folder().join("hidden");
    std::fs::create_dir(&hidden).unwrap();
    std::fs::set_permissions(&hidden, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::copy(pki.ca(), hidden.join("there.pem")).unwrap();
    let agent = Agent::start();
    let script = r#"
port, name, folder = args
os.chdir(folder)
as_root = connect(tls(name, "secret.pem"), "127.0.0.1", port)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
came = [as_root["result"]]
for path in ("ca.pem", folder + "/ca.pem", "secret.pem", "hidden/there.pem", "hidden/absent.pem"):
    result = connect(tls(name, path), "127.0.0.1", port)
    came.append([result["result"], result["error"].split(": ")[-1]])
out(came)
"#;
    let came = python(&agent, script, &[&server.port(), NAME, &pki.folder().to_string_lossy()]);
    let denied = json!(["EPROTO", "Permission denied (os error 13)"]);
    assert_eq!(
        came,
        json!(["ok", ["ok", ""], ["ok", ""], denied, denied, denied]),
        "and nothing tells there from absent"
    );
}
