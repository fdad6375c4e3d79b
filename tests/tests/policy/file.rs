//! The administrator's policy: what it refuses, for whom, and how it is changed.

use std::{fs, process::Command};

use serde_json::json;
use ssa_tests::{
    agent::{Agent, program},
    app::{App, python},
    nginx::Peer,
    pki::{Leaf, Pki},
    server::{Server, context_with},
};

const NAME: &str = "peer.ssa.test";

fn echo() -> (Pki, Server) {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    (pki, server)
}

/// `ssa-agent check` of a text: exit status, and what it printed.
fn check(text: &str, arguments: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    fs::write(&path, text).unwrap();
    let output = Command::new(program()).arg("check").arg("--config").arg(&path).args(arguments).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.success(), said.replace(path.to_str().unwrap(), "FILE"))
}

#[test]
fn mistakes_are_named_with_their_line_and_column() {
    for (text, said) in [
        ("[tls]\nversion_minn = \"1.2\"\n", "FILE:2:1: unknown field `version_minn`, expected one of `version_min`"),
        ("[tsl]\n", "FILE:1:2: unknown field `tsl`, expected one of `tls`"),
        ("[tls]\nversion_min = \"1.1\"\n", "FILE:2:15: unknown variant `1.1`, expected `1.2` or `1.3`"),
        ("[tls]\nversion_min = 1.3\n", "FILE:2:15: "),
        ("[tls]\nciphers = [\"A\"]\n", "FILE:2:12: this OpenSSL has no cipher suite \"A\""),
        ("[tls]\nciphers = [\"TLS_AES_128_GCM_SHA256\"]\n", "belongs to `ciphersuites`"),
        (
            "[tls]\nciphersuites = [\n\n  \"ECDHE-RSA-AES128-GCM-SHA256\"]\n",
            "FILE:4:3: ECDHE-RSA-AES128-GCM-SHA256 is no suite",
        ),
        ("[tls]\ngroups = [\"X25519\", \"P-255\"]\n", "FILE:2:21: this OpenSSL has no group \"P-255\""),
        ("[tls]\nsignature_algorithms = [\"md5\"]\n", "FILE:2:25: this OpenSSL has no signature algorithm"),
        ("[tls]\nalpn = [\"h2,h3\"]\n", "FILE:2:9: a protocol's name"),
        ("[tls]\nversion_min = \"1.3\"\nversion_max = \"1.2\"\n", "FILE:1:1: `version_min` is above `version_max`"),
        ("[tls]\nversion_max = \"1.2\"\nciphers = []\n", "FILE:1:1: no cipher suite is left"),
        ("[trust]\nsystem = 1\n", "FILE:2:10: invalid type: integer `1`, expected a boolean"),
        ("[trust]\nsystem = false\nprograms_may_bring_cas = false\n", "FILE:1:1: nobody is trusted"),
        ("[trust]\nverify_depth = -1\n", "FILE:2:16: -1 is below 0"),
        ("[trust]\nfiles = [\"/nowhere/ca.pem\"]\n", "/nowhere/ca.pem: No such file"),
        ("[time]\nconnect_seconds = 0\n", "FILE:2:19: 0 is not from 0.1 to 60 seconds"),
        (
            "\n[time]\nconnect_seconds = 31\nhandshake_seconds = 30\n",
            "FILE:2:1: `connect_seconds` and `handshake_seconds` are 61",
        ),
        ("[credentials]\nchain = \"/x\"\n", "FILE:1:1: `chain` and `key`"),
        ("[limits]\nsockets = \"many\"\n", "FILE:2:11: invalid type: string \"many\""),
        ("[[profile]]\nname = \"x\"\n", "FILE:2:8: profile x: it is for nobody"),
        ("[[profile]]\nuser = 1\n", "missing field `name`"),
        (
            "[[profile]]\nname = \"x\"\nuser = \"nobody-at-all\"\n",
            "FILE:3:8: this machine has no user \"nobody-at-all\"",
        ),
        ("[[profile]]\nname = \"x\"\nexecutable = \"curl\"\n", "must be an absolute path"),
        ("[[profile]]\nname = \"x\"\nunit = \"nginx\"\n", "must be a unit's whole name"),
        (
            "[[profile]]\nname = \"x\"\nuser = 1\nlimits.sockets = 1\n",
            "unknown field `sockets`, expected `sockets_per_user`",
        ),
        (
            "[tls]\nversion_max = \"1.2\"\n[[profile]]\nname = \"x\"\nuser = 1\n[profile.tls]\nversion_min = \"1.3\"\n",
            "FILE:6:1: profile x: `version_min` is above",
        ),
        ("[tls\n", "FILE:1:5: "),
    ] {
        let (good, printed) = check(text, &[]);
        assert!(!good && printed.contains(said), "{text}\n{printed}\ninstead of {said}");
    }
    let output = Command::new(program()).args(["check", "--config", "/nowhere.toml"]).output().unwrap();
    let (good, printed) = (output.status.success(), String::from_utf8(output.stderr).unwrap());
    assert!(!good && printed.contains("/nowhere.toml: No such file"), "{printed}");
}

/// Every key of the default file, uncommented, is what the agent has without a file.
#[test]
fn default_file_says_what_the_defaults_are() {
    let text = fs::read_to_string(ssa_tests::app::root().join("deploy/agent.toml")).unwrap();
    let (good, plain) = check(&text, &[]);
    assert!(good, "{plain}");
    let is_key = |line: &&str| {
        line.starts_with('[')
            || line.trim_start_matches('#').split_once(" = ").is_some_and(|(key, _)| {
                line.starts_with('#') && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            })
    };
    let machine = text.split("# Services are cgroups").next().unwrap();
    let without = ["ciphers = ", "chain = ", "key = ", "lifetime_seconds = "];
    let keys: Vec<&str> = machine.lines().filter(is_key).map(|line| line.trim_start_matches('#')).collect();
    let set: Vec<&str> = keys.iter().copied().filter(|line| !without.iter().any(|key| line.starts_with(key))).collect();
    let (good, uncommented) = check(&set.join("\n"), &[]);
    assert!(good, "{uncommented}");
    assert_eq!(uncommented, plain);
    // What is printed has no key that the file lacks, but for lists that are empty by default.
    for line in plain.lines().filter(|line| line.contains(" = ")) {
        let key = line.split(" = ").next().unwrap();
        assert!(keys.iter().any(|line| line.starts_with(&format!("{key} ="))), "{key}");
    }
    // And it is a configuration itself.
    let (good, again) = check(plain.split_once("\n\n").unwrap().1, &[]);
    assert!(good && again == plain, "{again}");
}

#[test]
fn weaker_than_the_policy_is_eproto_and_stronger_is_not() {
    let (pki, server) = echo();
    let config = r#"
[tls]
version_min = "1.3"
ciphersuites = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"]
ciphers = []
alpn = ["h2"]
[trust]
programs_may_bring_cas = false
system = false
files = ["CA"]
[sessions]
reuse = false
lifetime_seconds = 60
"#;
    let agent = Agent::start_with(&config.replace("CA", &pki.ca()));
    let script = r#"
port, host, ca = args
def put(option, value):
    sock = tls(host)
    return [attempt(sock.setsockopt, IPPROTO_TLS, option, value), error(sock)]
long = lambda seconds: struct.pack("=q", seconds)
came = {"weaker": [put(option, value) for option, value in (
            (111, 0x303), (112, 0x303), (87, text(ca)), (108, 1), (91, long(61)), (110, text("ECDHE-RSA-AES128-GCM-SHA256")),
            (97, text("TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256")), (110, text("TLS_CHACHA20_POLY1305_SHA256")))],
        "stronger": [put(option, value)[0] for option, value in (
            (111, 0x304), (112, 0x304), (108, 0), (91, long(60)), (91, long(0)), (97, text("TLS_AES_128_GCM_SHA256")), (92, text("TLS_AES_128_GCM_SHA256")))]}
sock = tls(host)
came["defaults"] = [number(sock, 111), number(sock, 112), number(sock, 108), struct.unpack("=q", sock.getsockopt(IPPROTO_TLS, 91, 8))[0], string(sock, 97)]
came["connect"] = connect(sock, "127.0.0.1", port)
came["cipher"] = string(sock, CIPHER)
doomed = tls(host)
attempt(doomed.setsockopt, IPPROTO_TLS, 111, 0x303)
came["refused set changes nothing"] = [number(doomed, 111), connect(doomed, "127.0.0.1", port)["result"]]
out(came)
"#;
    let came = python(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    let weaker = json!(["EPROTO", "weaker than the administrator's policy allows"]);
    assert_eq!(came["weaker"], json!(vec![weaker; 8]));
    assert_eq!(came["stronger"], json!(vec!["ok"; 7]));
    assert_eq!(came["defaults"], json!([0x304, 0x304, 0, 60, "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"]));
    assert_eq!(came["connect"]["result"], "ok", "{came}");
    assert_eq!(came["cipher"], "TLS_AES_256_GCM_SHA384");
    assert_eq!(came["refused set changes nothing"], json!([0x304, "ok"]));
}

#[test]
fn trust_depth_groups_algorithms_alpn_and_credentials_are_the_administrators() {
    let pki = Pki::new();
    let deep = pki.leaf_below_intermediate(Leaf::of(&[NAME]));
    let server = Server::tls(
        "127.0.0.1",
        context_with(&deep, |acceptor| {
            acceptor.set_groups_list("P-384").unwrap();
            acceptor.set_alpn_select_callback(|_ssl, offered| {
                openssl::ssl::select_next_proto(b"\x02h2", offered).ok_or(openssl::ssl::AlpnError::NOACK)
            });
        }),
        ssa_tests::server::echo,
    );
    let (chain, key) = pki.write("client", &pki.leaf(Leaf::of(&["client"])));
    let (server_chain, server_key) = pki.write("nginx", &pki.leaf(Leaf::of(&[NAME])));
    let demand = format!("ssl_client_certificate {}; ssl_verify_client on; ssl_verify_depth 3;", pki.ca());
    let nginx = Peer::nginx_with(&pki, &server_chain, &server_key, &demand);
    let connects = |config: &str, port: &str| {
        let agent = Agent::start_with(&config.replace("CA", &pki.ca()));
        python(
            &agent,
            "sock = tls(args[1])\nout([connect(sock, '127.0.0.1', args[0]), attempt(sock.getsockopt, IPPROTO_TLS, 90, 100) == 'ok' and string(sock, 90)])",
            &[port, NAME],
        )
    };
    let trust = "[trust]\nsystem = false\nfiles = [\"CA\"]\n";
    let came = connects(&format!("{trust}[tls]\nalpn = [\"h2\"]\n"), &server.port());
    assert_eq!((&came[0]["result"], &came[1]), (&json!("ok"), &json!("h2")), "{came}");
    let came = connects(&format!("{trust}verify_depth = 0\n"), &server.port());
    assert_eq!(came[0]["result"], "EPROTO", "{came}");
    assert!(came[0]["error"].as_str().unwrap().contains("too long"), "{came}");
    for tls in ["groups = [\"X25519\"]", "signature_algorithms = [\"rsa_pss_rsae_sha256\"]"] {
        let came = connects(&format!("{trust}[tls]\n{tls}\n"), &server.port());
        assert_eq!(came[0]["result"], "EPROTO", "{tls}: {came}");
    }
    let rehashed = tempfile::tempdir().unwrap();
    fs::copy(pki.ca(), rehashed.path().join("ca.pem")).unwrap();
    assert!(Command::new("openssl").arg("rehash").arg(rehashed.path()).output().unwrap().status.success());
    let config = format!(
        "[trust]\nsystem = false\ndirectories = [\"{}\"]\n[credentials]\nchain = \"{chain}\"\nkey = \"{key}\"\n",
        rehashed.path().display()
    );
    let agent = Agent::start_with(&config);
    let script = r#"
sock = tls(args[1])
sock.connect(("127.0.0.1", int(args[0])))
sock.send(b"GET / HTTP/1.0\r\n\r\n")
out(read_all(sock).decode().split("\r\n\r\n")[1])
"#;
    let came = python(&agent, script, &[&nginx.port(), NAME]);
    assert!(came.as_str().unwrap().contains("CN=client,O=SSA tests"), "{came}");
}

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
trust.programs_may_bring_cas = true
tls.ciphersuites = ["TLS_AES_128_GCM_SHA256"]
tls.version_min = "1.3"
"#,
        cgroup.display(),
        python_path.display()
    );
    fs::create_dir(agent.cgroup().join("inner")).unwrap();
    agent.configure(&config);
    agent.restart();
    let script = r#"
port, host, ca = args
def tries():
    sock = tls(host, ca)
    came = [attempt(sock.setsockopt, IPPROTO_TLS, 111, 0x303), attempt(sock.setsockopt, IPPROTO_TLS, 108, 1)]
    return came + [connect(sock, "127.0.0.1", port)]
came = {"plain": tries()}
plain = tls(host, ca)
came["cipher"] = [connect(plain, "127.0.0.1", port)["result"], string(plain, CIPHER)]
asked = tls(host, ca)
asked.setsockopt(IPPROTO_TLS, 110, text("TLS_AES_256_GCM_SHA384"))
came["asked"] = connect(asked, "127.0.0.1", port)
pid = os.fork()
if pid == 0:
    os.setuid(12345)
    came["user"] = tries()
    out(came)
    os._exit(0)
os.waitpid(pid, 0)
"#;
    let came = python(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    // The hook leaves it to connect, where the executable is known.
    assert_eq!(json!([came["plain"][0], came["plain"][1]]), json!(["ok", "ok"]));
    assert_eq!(came["plain"][2]["result"], "EPROTO", "{came}");
    assert!(came["plain"][2]["error"].as_str().unwrap().contains("TLS_VERSION_MIN is 0x303"), "{came}");
    assert_eq!(came["cipher"], json!(["ok", "TLS_AES_128_GCM_SHA256"]));
    assert_eq!(came["asked"]["result"], "EPROTO");
    assert!(came["asked"]["error"].as_str().unwrap().contains("TLS_AES_256_GCM_SHA384 is no allowed"), "{came}");
    assert_eq!(came["user"][1], "EPROTO", "decided at the call: {came}");

    // A cgroup below, with a program that no profile names.
    let inner = agent.cgroup().join("inner");
    let copy = tempfile::tempdir().unwrap();
    let other = copy.path().join("python");
    fs::copy(&python_path, &other).unwrap();
    let script = r#"
import socket, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
sock = socket.socket()
came = []
for value in (0x303, 0x304):
    try:
        sock.setsockopt(205, 111, value); came.append("ok")
    except OSError as error:
        came.append(error.errno)
print(came, flush=True)
sys.stdin.readline()
"#;
    let mut child = ssa_tests::app::command(&agent, &other)
        .args(["-c", script])
        .arg(&inner)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line.trim(), format!("[{}, 'ok']", libc::EPROTO), "by cgroup, at the call");
    let config = agent.config();
    let explain = |pid: u32| {
        let output = Command::new(program())
            .arg("check")
            .arg("--config")
            .arg(&config)
            .args(["--explain", &pid.to_string()])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let explained = explain(child.id());
    assert!(explained.contains("# profile inner, because cgroup = "), "{explained}");
    assert!(explained.contains("version_min = \"1.3\"") && !explained.contains("profile python"), "{explained}");
    let explained = explain(std::process::id());
    assert!(explained.contains("no profile is for it"), "{explained}");
    drop(child.stdin.take());
    child.wait().unwrap();
    fs::remove_dir(inner).unwrap();
}

#[test]
fn reload_takes_a_good_file_keeps_the_old_one_and_leaves_connections_alone() {
    let (pki, server) = echo();
    let mut agent = Agent::start();
    let script = r#"
port, host, ca = args
owner = tls(host, ca)
context = owner.getsockopt(IPPROTO_TLS, CONTEXT, 8)
def member():
    sock = tls(None)
    sock.setsockopt(IPPROTO_TLS, CONTEXT, context)
    result = attempt(sock.connect, ("127.0.0.1", int(port)))
    if result != "ok": return [result, error(sock)], sock
    sock.send(b"x"); sock.recv(1)
    return [result, number(sock, RESUMED), number(sock, VERSION)], sock
def tried():
    return attempt(tls(host, ca).setsockopt, IPPROTO_TLS, 111, 0x303)
came, first = member()
out([came, member()[0], tried()]); wait()
def alive():
    first.send(b"still"); return first.recv(5).decode()
out([alive(), member()[0], member()[0], tried()]); wait()
out([alive(), member()[0], tried()]); wait()
out([alive(), member()[0], tried()])
"#;
    let mut app = App::start(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(app.said(), json!([["ok", 0, 0x304], ["ok", 1, 0x304], "ok"]));
    agent.configure("[tls]\nversion_min = \"1.3\"\n");
    let (good, said) = agent.reload();
    assert!(good, "{said}");
    app.go();
    let fresh_then_resumed = json!(["still", ["ok", 0, 0x304], ["ok", 1, 0x304], "EPROTO"]);
    assert_eq!(app.said(), fresh_then_resumed, "sessions of another policy are not resumed");
    agent.configure("[tls]\nversion_min = \"1.4\"\n");
    let (good, said) = agent.reload();
    assert!(!good && said.contains("agent.toml:5:15: unknown variant `1.4`"), "{said}");
    app.go();
    assert_eq!(app.said(), json!(["still", ["ok", 1, 0x304], "EPROTO"]), "the old policy stays");
    agent.configure("[tls]\nversion_max = \"1.2\"\n");
    agent.signal(nix::sys::signal::Signal::SIGHUP);
    ssa_tests::eventually("the log says so", std::time::Duration::from_secs(5), || {
        agent.log().matches("a new policy is in force").count() == 2
    });
    app.go();
    assert_eq!(app.said(), json!(["still", ["ok", 0, 0x303], "ok"]));
    app.finish();
}

#[test]
fn sockets_are_limited_in_all_and_for_each_user() {
    let agent = Agent::start_with("[limits]\nsockets = 7\nsockets_per_user = 5\n");
    let script = r#"
def opened(count):
    came = []
    for _ in range(count):
        sock = socket.socket(); keep.append(sock)
        came.append(attempt(sock.setsockopt, IPPROTO_TLS, HOSTNAME, b"name.test\0"))
    return came
keep = []
first = opened(6)
connected = attempt(keep[-1].connect, ("127.0.0.1", 9))
pid = os.fork()
if pid == 0:
    os.setuid(12345)
    out([first, connected, opened(3)])
    os._exit(0)
os.waitpid(pid, 0)
for sock in keep: sock.close()
out(opened(5))
"#;
    let mut app = App::start(&agent, script, &[]);
    let (ok, full) = ("ok", "ENOBUFS");
    // What was refused does not count.
    assert_eq!(app.said(), json!([[ok, ok, ok, ok, ok, full], "EPROTO", [ok, ok, full]]));
    assert_eq!(app.said(), json!([ok, ok, ok, ok, ok]));
    app.finish();
}

#[test]
fn control_socket_is_roots_and_speaks_json() {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        os::unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::UnixStream,
        },
    };
    let agent = Agent::start();
    let inode = fs::metadata(agent.cgroup()).unwrap().ino();
    let path = format!("/run/ssa-agent/{inode}.sock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |line: &str| {
        writeln!(stream, "{line}").unwrap();
        serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap()
    };
    assert_eq!(ask(r#"{"version":1,"command":"reload"}"#), json!({"reloaded": {"generation": 2}}));
    assert!(ask(r#"{"version":2,"command":"reload"}"#)["error"].as_str().unwrap().contains("version 2"));
    assert!(ask("nonsense")["error"].as_str().unwrap().contains("no request"));
}
