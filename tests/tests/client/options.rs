//! The options' contract: types, lengths, phases, errnos; contexts; the header.

use serde_json::{Value, json};
use ssa_common::uapi::{Kind, OPTIONS, Place, When, option};
use ssa_tests::{
    agent::Agent,
    app::{compile, programs, python},
    pki::{Leaf, Pki},
    server::{Server, context_with},
};

const NAME: &str = "peer.ssa.test";

fn echo() -> (Agent, Pki, Server) {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    (Agent::start(), pki, server)
}

/// Calls libc itself: Python's own wrappers hide pointers and lengths.
const RAW: &str = r#"
def raw_set(sock, option, value, length, level=IPPROTO_TLS):
    pointer = value if value is None or isinstance(value, int) else ctypes.c_char_p(value)
    if isinstance(pointer, int): pointer = ctypes.c_void_p(pointer)
    return name(0 if libc.setsockopt(sock.fileno(), level, option, pointer, length) == 0 else ctypes.get_errno())
def raw_get(sock, option, length, pointer=True, level=IPPROTO_TLS):
    buffer = ctypes.create_string_buffer(b"\xee" * max(length, 1), max(length, 1) + 16)
    size = ctypes.c_uint32(length)
    target = buffer if pointer is True else pointer
    done = libc.getsockopt(sock.fileno(), level, option, target, ctypes.byref(size))
    return [name(0 if done == 0 else ctypes.get_errno()), size.value, buffer.raw[:max(size.value, 1)].hex()]
"#;

fn raw(agent: &Agent, script: &str, arguments: &[&str]) -> Value {
    python(agent, &format!("{RAW}{script}"), arguments)
}

#[test]
fn strings_want_one_nul_at_their_end() {
    let agent = Agent::start();
    let script = r#"
came = {}
for option in (85, 86, 87, 88, 89, 90):
    good = b"name.test\0"
    came[option] = [raw_set(socket.socket(), option, *case) for case in (
        (good, 10), (good, 9), (b"name\0test\0", 10), (b"name.test\0\0", 11), (b"\0", 1), (good, 0), (None, 0), (None, 10),
        (1, 10), (good, -1))]
    long = b"x" * 4095 + b"\0"
    came[option] += [raw_set(socket.socket(), option, long, 4096), raw_set(socket.socket(), option, long + b"\0", 4097)]
    sock = socket.socket()
    came[option].append([raw_set(sock, option, b"name.test\0", 10), raw_set(sock, option, b"bad", 3)])
    if option not in (87, 88, 89): came[option].append(string(sock, option))
out(came)
"#;
    let came = raw(&agent, script, &[]);
    let short = "EINVAL";
    let common = |long: &str| {
        json!(["ok", short, short, short, short, short, short, "EFAULT", "EFAULT", "EINVAL", long, "EINVAL"])
    };
    for (option, long, last) in [
        ("85", "EINVAL", true),
        ("86", "EINVAL", true),
        ("87", "ok", false),
        ("88", "ok", false),
        ("89", "ok", false),
        ("90", "EINVAL", true),
    ] {
        let row = came[option].as_array().unwrap();
        assert_eq!(json!(row[..12]), common(long), "{option}");
        assert_eq!(row[12], json!(["ok", "EINVAL"]));
        if last {
            assert_eq!(row[13], "name.test", "a refused set changes nothing");
        }
    }
}

#[test]
fn host_names_are_names_or_addresses() {
    let agent = Agent::start();
    let script = r#"
came = {}
for text_ in args:
    value = text_.encode().decode("unicode_escape").encode("latin-1")
    came[text_] = raw_set(socket.socket(), 85, value + b"\0", len(value) + 1)
out(came)
"#;
    let label63 = "a".repeat(63);
    let label64 = "a".repeat(64);
    let name253 = format!("{0}.{0}.{0}.{1}", label63, "b".repeat(61));
    let name254 = format!("{0}.{0}.{0}.{1}", label63, "b".repeat(62));
    let good: Vec<String> = [
        "a",
        "localhost",
        "example.com",
        "example.com.",
        "EXAMPLE.com",
        "a-b_c.d",
        "xn--bcher-kva.example",
        "1.example",
        "1a",
        "a1",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "249.250.99.10",
        "::1",
        "2001:db8::1",
        "::ffff:1.2.3.4",
        "123.com",
        "1.2.3.4.example",
        "0x7f.com",
    ]
    .iter()
    .map(|name| (*name).to_owned())
    .chain([label63, name253])
    .collect();
    let bad: Vec<String> = [
        ".",
        ".example",
        "a..b",
        "a..",
        "*.example",
        "a b",
        " a",
        "a ",
        "a/b",
        "a\\\\b",
        "b\\xfccher.example",
        "a\\nb",
        "127.0.0.01",
        "127.0.0.1.",
        "256.0.0.1",
        "1.2.3",
        "1.2.3.4.5",
        "1",
        "0127.0.0.1",
        "a.1",
        "a.b.c.300",
        ":",
        ":a",
        "1:2.example",
        "fe80::1%lo",
        "[::1]",
        "a@b",
        "g::1",
        "..",
        "a:b",
    ]
    .iter()
    .map(|name| (*name).to_owned())
    .chain([label64, name254])
    .collect();
    let arguments: Vec<&str> = good.iter().chain(&bad).map(String::as_str).collect();
    let came = raw(&agent, script, &arguments);
    let wrong: Vec<String> = good
        .iter()
        .map(|name| (name, "ok"))
        .chain(bad.iter().map(|name| (name, "EINVAL")))
        .filter(|(name, errno)| came[name.as_str()] != *errno)
        .map(|(name, errno)| format!("{name:?}: {} instead of {errno}", came[name.as_str()]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn numbers_want_their_size_and_booleans_zero_or_one() {
    let agent = Agent::start();
    let script = r#"
came = []
for value, length in ((b"\1\0\0\0", 4), (b"\0\0\0\0", 4), (b"\2\0\0\0", 4), (b"\xff\xff\xff\xff", 4),
                      (b"\1\0\0", 3), (b"\1\0\0\0\0", 5), (b"\1" + b"\0" * 7, 8), (b"", 0), (None, 4), (None, 0)):
    sock = tls("name.test")
    came.append([raw_set(sock, 108, value, length), number(sock, 108)])
sock = tls("name.test")
gets = [raw_get(sock, 108, length) for length in (4, 3, 5, 0)] + [raw_get(sock, 96, length)[:2] for length in (8, 4, 16, 0)]
out([came, gets])
"#;
    let came = raw(&agent, script, &[]);
    let expected = json!([
        ["ok", 1],
        ["ok", 0],
        ["EINVAL", 1],
        ["EINVAL", 1],
        ["EINVAL", 1],
        ["EINVAL", 1],
        ["EINVAL", 1],
        ["EINVAL", 1],
        ["EFAULT", 1],
        ["EINVAL", 1]
    ]);
    assert_eq!(came[0], expected);
    let gets = came[1].as_array().unwrap();
    assert_eq!(gets[0], json!(["ok", 4, "01000000"]));
    for get in &gets[1..4] {
        assert_eq!(get[0], "EINVAL", "{gets:?}");
    }
    assert_eq!(gets[4], json!(["ok", 8]));
    for get in &gets[5..] {
        assert_eq!(get[0], "EINVAL", "{gets:?}");
    }
}

#[test]
fn answers_want_room_and_pointers_that_point() {
    let (agent, pki, server) = echo();
    let script = r#"
port, host, ca = args
sock = tls(host, ca)
sock.connect(("127.0.0.1", int(port)))
came = [raw_get(sock, HOSTNAME, length) for length in (255, len(host) + 1, len(host), 1, 0)]
came += [raw_get(sock, CIPHER, length)[0] for length in (4096, 8192, 64, 10)]
came += [raw_get(sock, HOSTNAME, 255, 1)[0], raw_get(sock, ID, 8, 1)[0], raw_get(sock, ID, 8, None)[0], raw_get(sock, CIPHER, 64, None)[0]]
came += [raw_get(sock, 999, 8, None)[0], raw_get(tls(host), ID, 8, None)[0]]
out(came)
"#;
    let came = raw(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    let hex: String = NAME.bytes().chain([0]).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(came[0], json!(["ok", 14, hex]));
    assert_eq!(came[1], json!(["ok", 14, hex]));
    for index in 2..5 {
        assert_eq!(came[index][0], "EINVAL");
        assert!(!came[index][2].as_str().unwrap().contains("70656572"), "nothing is written");
    }
    assert_eq!(json!(came.as_array().unwrap()[5..9]), json!(["ok", "ok", "ok", "EINVAL"]));
    assert_eq!(
        json!(came.as_array().unwrap()[9..]),
        json!(["EFAULT", "EFAULT", "EFAULT", "EFAULT", "ENOPROTOOPT", "EFAULT"])
    );
}

/// Walks the table: every number from 80 to 160, both directions, in every phase.
#[test]
fn every_option_in_every_phase_does_as_the_table_says() {
    let (agent, pki, server) = echo();
    let script = r#"
port, silent, host, ca, chain, key = args
closed = socket.socket(); closed.bind(("127.0.0.1", 0)); dead = closed.getsockname(); closed.close()
def connected():
    sock = tls(host, ca); sock.connect(("127.0.0.1", int(port))); return sock
def failed():
    sock = tls(host, ca); attempt(sock.connect, dead); return sock
def listening():
    sock = tls(host); sock.setsockopt(IPPROTO_TLS, 88, text(chain)); sock.setsockopt(IPPROTO_TLS, 89, text(key))
    sock.bind(("127.0.0.1", 0)); sock.listen(); return sock
def connecting():
    sock = tls(host, ca); sock.setblocking(False); sock.connect_ex(("127.0.0.1", int(silent))); return sock
def peer_closed():
    sock = connected(); sock.shutdown(socket.SHUT_WR); assert sock.recv(1) == b""; return sock
def adopted():
    owner = tls(host, ca); keep.append(owner)
    sock = tls(None); sock.setsockopt(IPPROTO_TLS, CONTEXT, owner.getsockopt(IPPROTO_TLS, CONTEXT, 8)); return sock
keep = []
values = {85: b"peer.ssa.test\0", 86: b"peer.ssa.test\0", 87: text(ca), 88: text(ca), 89: text(ca), 90: b"h2,http/1.1\0",
          91: b"\1" + b"\0" * 7, 92: b"TLS_AES_128_GCM_SHA256\0", 97: b"TLS_AES_256_GCM_SHA384:ECDHE-RSA-AES128-GCM-SHA256\0",
          107: None, 110: b"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\0", 111: b"\x04\x03\0\0", 112: b"\x04\x03\0\0"}
sizes = {91: 8, 94: 4, 95: 4096, 96: 8, 97: 4096, 102: 4, 103: 4, 104: 4, 105: 4, 106: 4, 107: 8, 108: 4, 109: 4, 111: 4, 112: 4, 113: 4, 122: 4, 130: 4, 131: 4, 150: 32} | {132 + i: 4096 for i in range(16)}
came = {}
for phase, make in {"fresh": lambda: tls(host, ca), "failed": failed, "connected": connected,
                    "listening": listening, "adopted": adopted, "connecting": connecting,
                    "peer closed": peer_closed}.items():
    rows = {}
    reader = make()
    for option in range(80, 161):
        writer = make() if phase in ("fresh", "failed", "adopted") or not rows else writer
        value = values.get(option, b"\1\0\0\0")
        if option == 107:
            other = tls(host, ca); keep.append(other)
            value = other.getsockopt(IPPROTO_TLS, CONTEXT, 8)
        rows[option] = [raw_set(writer, option, value, len(value)), raw_get(reader, option, sizes.get(option, 300))[0]]
        if phase in ("fresh", "failed"): writer.close()
    came[phase] = rows
out(came)
"#;
    let (chain, key) = pki.write("own", &pki.leaf(Leaf::of(&[NAME])));
    let silent = Server::tcp("127.0.0.1", |_stream| std::thread::sleep(std::time::Duration::from_secs(10)));
    let came = raw(&agent, script, &[&server.port(), &silent.port(), NAME, &pki.ca(), &chain, &key]);
    let mut wrong = Vec::new();
    for phase in ["fresh", "failed", "connected", "listening", "adopted", "connecting", "peer closed"] {
        for number in 80..=160 {
            let option = option(number);
            let (set, get) = option.map_or((When::Never, When::Never), |option| (option.set, option.get));
            let is_host_name = option.is_some_and(|option| option.place == Place::HostName);
            let expected = json!([expected_set(set, phase, is_host_name), expected_get(number, get, phase)]);
            let found = &came[phase][number.to_string()];
            if *found != expected {
                wrong.push(format!("{number} {phase}: {found} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn expected_set(when: When, phase: &str, is_host_name: bool) -> &'static str {
    match (when, phase) {
        (When::Never, _) => "ENOPROTOOPT",
        // Frozen: only the host name may change.
        (_, "adopted") if !is_host_name => "EOPNOTSUPP",
        (_, "fresh" | "failed" | "adopted") => "ok",
        (_, _) => "EOPNOTSUPP",
    }
}

fn expected_get(number: i32, when: When, phase: &str) -> &'static str {
    match (when, phase) {
        // The chain is a leaf and its root.
        (When::Connected, "connected" | "peer closed") if (134..148).contains(&number) => "ENOENT",
        (When::Never, _) => "ENOPROTOOPT",
        (When::Any, _)
        | (When::Connected, "connected" | "peer closed")
        | (When::Fresh, "fresh" | "failed" | "adopted") => "ok",
        (When::Connected | When::Fresh, _) => "EOPNOTSUPP",
    }
}

#[test]
fn sockets_that_are_no_tcp_sockets_have_no_such_options() {
    let agent = Agent::start();
    let script = r#"
came = []
plain = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(plain.getsockname())
for sock in (socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
             socket.socket(socket.AF_UNIX), socket.socketpair()[0], socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)):
    for option in (85, 96, 108, 999):
        came.append(raw_set(sock, option, b"name.test\0", 10))
        came.append(raw_get(sock, option, 8)[0])
busy = [[raw_set(sock, 85, b"name.test\0", 10), raw_get(sock, 130, 4)[0]] for sock in (plain, client)]
fresh = raw_get(socket.socket(), 130, 4)[0]
out([sorted(set(came)), busy, fresh])
"#;
    let came = raw(&agent, script, &[]);
    let busy = json!([["EOPNOTSUPP", "ENOPROTOOPT"], ["EOPNOTSUPP", "ENOPROTOOPT"]]);
    assert_eq!(came, json!([["ENOPROTOOPT"], busy, "ENOPROTOOPT"]));
}

#[test]
fn state_follows_the_socket() {
    let (agent, pki, server) = echo();
    let script = r#"
port, host, ca = args
came = []
sock = tls(host, ca); came.append(state(sock))
sock.setblocking(False); attempt(sock.connect, ("127.0.0.1", int(port))); came.append(state(sock))
poller = select.poll(); poller.register(sock, select.POLLOUT); poller.poll(5000); came.append(state(sock))
sock.setblocking(True); sock.shutdown(socket.SHUT_WR); came.append(state(sock) in (2, 5))
sock.recv(10); came.append(state(sock))
listener = tls(host); listener.bind(("127.0.0.1", 0)); listener.listen(); came.append(state(listener))
out(came)
"#;
    let came = raw(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(came, json!([0, 1, 2, true, 5, 3]));
}

#[test]
fn adopted_context_brings_name_trust_and_sessions() {
    let (agent, pki, server) = echo();
    let script = r#"
port, host, ca = args
owner = tls(host, ca)
context = owner.getsockopt(IPPROTO_TLS, CONTEXT, 8)
came = []
for turn in range(4):
    sock = owner if turn == 0 else socket.socket()
    if turn: sock.setsockopt(IPPROTO_TLS, CONTEXT, context)
    sock.connect(("127.0.0.1", int(port)))
    sock.sendall(b"x"); sock.recv(1)
    came.append([number(sock, RESUMED), string(sock, HOSTNAME), id_of(sock) != struct.unpack("=Q", context)[0]])
    if turn: sock.close()
other = tls(None); other.setsockopt(IPPROTO_TLS, CONTEXT, context)
other.setsockopt(IPPROTO_TLS, HOSTNAME, b"other.ssa.test\0")
came.append([connect(other, "127.0.0.1", port)["result"], string(owner, HOSTNAME)])
out(came)
"#;
    let came = raw(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(came[0], json!([0, NAME, false]));
    for turn in 1..4 {
        assert_eq!(came[turn], json!([1, NAME, true]), "{came}");
    }
    assert_eq!(came[4], json!(["EPROTO", NAME]), "a name of its own, which is verified, and nobody else's");
}

#[test]
fn fifty_connections_of_one_context_resume() {
    let pki = Pki::new();
    for version in [openssl::ssl::SslVersion::TLS1_2, openssl::ssl::SslVersion::TLS1_3] {
        let context = context_with(&pki.leaf(Leaf::of(&[NAME])), |acceptor| {
            acceptor.set_max_proto_version(Some(version)).unwrap();
        });
        let server = Server::tls("127.0.0.1", context, ssa_tests::server::echo);
        let agent = Agent::start();
        let script = r#"
port, host, ca = args
owner = tls(host, ca)
context = owner.getsockopt(IPPROTO_TLS, CONTEXT, 8)
resumed = 0
for turn in range(50):
    sock = tls(None); sock.setsockopt(IPPROTO_TLS, CONTEXT, context)
    sock.connect(("127.0.0.1", int(port)))
    sock.sendall(b"x"); sock.recv(1)
    resumed += number(sock, RESUMED)
    sock.close()
out(resumed)
"#;
        let came = raw(&agent, script, &[&server.port(), NAME, &pki.ca()]);
        assert_eq!(came, 49, "all but the first, over {version:?}");
    }
}

#[test]
fn session_reuse_is_off_when_it_is_told_so() {
    let (agent, pki, server) = echo();
    let script = r#"
port, host, ca = args
owner = tls(host, ca)
owner.setsockopt(IPPROTO_TLS, REUSE, 0)
context = owner.getsockopt(IPPROTO_TLS, CONTEXT, 8)
came = []
for turn in range(3):
    sock = socket.socket(); sock.setsockopt(IPPROTO_TLS, CONTEXT, context)
    sock.connect(("127.0.0.1", int(port))); sock.sendall(b"x"); sock.recv(1)
    came.append([number(sock, RESUMED), number(sock, REUSE)])
separate = []
for turn in range(2):
    sock = tls(host, ca); sock.connect(("127.0.0.1", int(port))); sock.sendall(b"x"); sock.recv(1)
    separate.append(number(sock, RESUMED))
out([came, separate])
"#;
    let came = raw(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(came, json!([[[0, 0], [0, 0], [0, 0]], [0, 0]]), "and separate contexts share nothing");
}

#[test]
fn contexts_are_of_their_user_and_of_their_life() {
    let agent = Agent::start();
    let script = r#"
owner = tls("peer.ssa.test")
context = owner.getsockopt(IPPROTO_TLS, CONTEXT, 8)
frozen = [raw_set(owner, 108, b"\0\0\0\0", 4), raw_set(owner, 87, b"/x\0", 3), raw_set(owner, 85, b"b.test\0", 7)]
adopter = socket.socket()
came = [raw_set(adopter, 107, context, 8), raw_set(adopter, 108, b"\0\0\0\0", 4), raw_set(adopter, 107, context, 8)]
sizes = [raw_set(socket.socket(), 107, context, length) for length in (7, 4, 0)]
owner.close()
still = raw_set(socket.socket(), 107, context, 8)
adopter.close()
gone = raw_set(socket.socket(), 107, context, 8)
second = tls("peer.ssa.test")
context = second.getsockopt(IPPROTO_TLS, CONTEXT, 8)
if os.fork() == 0:
    os.setgid(65534); os.setuid(65534)
    out([frozen, came, sizes, still, gone, raw_set(socket.socket(), 107, context, 8)])
    os._exit(0)
os.wait()
"#;
    let came = raw(&agent, script, &[]);
    assert_eq!(came[0], json!(["EOPNOTSUPP", "EOPNOTSUPP", "ok"]), "frozen, but for the host name");
    assert_eq!(came[1], json!(["ok", "EOPNOTSUPP", "EOPNOTSUPP"]), "an adopter is frozen as well");
    assert_eq!(came[2], json!(["EINVAL", "EINVAL", "EINVAL"]));
    assert_eq!(came[3], "ok", "an adopter keeps the context");
    assert_eq!(came[4], "EINVAL", "it goes with its last socket");
    assert_eq!(came[5], "EINVAL", "another user's");
}

#[test]
fn ids_are_random_and_unique() {
    let agent = Agent::start();
    let script = r#"
ids = []
for turn in range(3000):
    with tls("peer.ssa.test") as sock: ids.append(id_of(sock))
out([len(set(ids)), 0 in ids, sum(number >> 63 for number in ids)])
"#;
    let came = raw(&agent, script, &[]);
    assert_eq!((&came[0], &came[1]), (&json!(3000), &json!(false)));
    let top_bits = came[2].as_u64().unwrap();
    assert!((1300..1700).contains(&top_bits), "{top_bits} of 3000 have the top bit");
}

#[test]
fn header_compiles_as_c89_and_cpp_and_agrees_with_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let source = programs().join("header.c");
    let strict = ["-pedantic", "-Wall", "-Wextra", "-Werror"];
    for (compiler, flags) in [
        ("gcc", vec!["-std=c89"]),
        ("gcc", vec!["-std=c11"]),
        ("g++", vec!["-x", "c++", "-std=c++98"]),
        ("g++", vec!["-x", "c++", "-std=c++20"]),
    ] {
        let flags: Vec<&str> = flags.into_iter().chain(strict).collect();
        let program = compile(folder.path(), &source, compiler, &flags);
        let output = std::process::Command::new(program).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        for option in OPTIONS.iter().filter(|option| option.count == 1) {
            let line = format!("{} {}\n", option.name, option.number);
            assert!(printed.contains(&line), "{compiler}: {line}");
        }
        assert!(printed.contains("IPPROTO_TLS 205\n") && printed.contains("TLS_PEER_CERTIFICATE(3) 135\n"));
        assert!(printed.contains("TLS_REMOTE_HOSTNAME 85\n"));
    }
    assert!(OPTIONS.iter().any(|option| matches!(option.kind, Kind::PathOrPem)));
}

#[test]
fn c_program_gets_every_option() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let nginx_files = pki.write("server", &leaf);
    let nginx = ssa_tests::nginx::Peer::nginx(&pki, &nginx_files.0, &nginx_files.1);
    let (chain, key) = pki.write("client", &pki.leaf(Leaf::of(&["client"])));
    let agent = Agent::start();
    let source = programs().join("options.c");
    let program =
        compile(pki.folder(), &source, "gcc", &["-std=c99", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror"]);
    let output = ssa_tests::app::command(&agent, program)
        .args(["127.0.0.1", &nginx.port(), NAME, &pki.ca(), &chain, &key])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let lines: std::collections::HashMap<&str, &str> =
        printed.lines().filter_map(|line| line.split_once(' ')).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let pem = |certificate: &openssl::x509::X509| String::from_utf8(certificate.to_pem().unwrap()).unwrap();
    let root = openssl::x509::X509::from_pem(pki.ca_pem().as_bytes()).unwrap();
    let expected = [
        ("TLS_CONTEXT", "set".to_owned()),
        ("TLS_HOSTNAME", NAME.to_owned()),
        ("TLS_HOSTNAME_2", NAME.to_owned()),
        ("TLS_ALPN", "h2".to_owned()),
        ("TLS_SESSION_TTL", "600".to_owned()),
        ("TLS_PEER_IDENTITY", format!("CN={NAME},O=SSA tests")),
        ("TLS_REQUEST_PEER_AUTH", "2".to_owned()),
        ("TLS_PEER_CERTIFICATE_CHAIN", (pem(&leaf.certificate) + &pem(&root)).replace('\n', "|")),
        ("TLS_ID", "set".to_owned()),
        ("TLS_TRUSTED_CIPHERS", "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384".to_owned()),
        ("TLS_CHOSEN_CIPHER", String::new()),
        ("TLS_ERROR", String::new()),
        ("TLS_REVOCATION_CHECKS", "0".to_owned()),
        ("TLS_OCSP_STAPLED_CHECKS", "1".to_owned()),
        ("TLS_OCSP_CHECKS", "0".to_owned()),
        ("TLS_CRL_CHECKS", "1".to_owned()),
        ("TLS_CACHED_REV_CHECKS", "1".to_owned()),
        ("TLS_SESSION_REUSE", "1".to_owned()),
        ("TLS_RESUMED_SESSION", "0".to_owned()),
        ("TLS_VERSION_MIN", "771".to_owned()),
        ("TLS_VERSION_MAX", "772".to_owned()),
        ("TLS_VERSION_CONN", "772".to_owned()),
        ("TLS_SERVER_OCSP_STAPLING", "1".to_owned()),
        ("TLS_STATE", "2".to_owned()),
        ("TLS_PEER_CERTIFICATE_COUNT", "2".to_owned()),
        ("TLS_PEER_CERTIFICATE", hex(&leaf.certificate.to_der().unwrap())),
        ("TLS_PEER_CERTIFICATE_SHA256", hex(&openssl::sha::sha256(&leaf.certificate.to_der().unwrap()))),
    ];
    for (name, value) in &expected {
        let found = lines.get(name).unwrap_or_else(|| panic!("{name}: {printed}"));
        assert!(found == value || *name == "TLS_CHOSEN_CIPHER" && found.starts_with("TLS_"), "{name}: {found}");
    }
    for option in OPTIONS.iter().filter(|option| option.get != When::Never) {
        assert!(expected.iter().any(|(name, _value)| *name == option.name), "the program lacks {}", option.name);
    }
}
