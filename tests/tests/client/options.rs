//! Values of options: types, lengths, pointers, and sockets that have none.

use serde_json::json;
use ssa_tests::agent::Agent;

use crate::raw::*;

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
