//! Values of options: types, lengths, pointers, and sockets that have none.

use serde_json::json;
use ssa_tests::{agent::Agent, in_tls::*};

use crate::raw::*;

#[test]
fn strings_want_one_nul_at_their_end() {
    let agent = Agent::start();
    let came = raw(&agent, "option_strings.py", &[]);
    let short = "EINVAL";
    let common = |long: &str| {
        json!(["ok", short, short, short, short, short, short, "EFAULT", "EFAULT", "EINVAL", long, "EINVAL"])
    };
    for (option, long, last) in [
        (TLS_HOSTNAME, "EINVAL", true),
        (TLS_HOSTNAME_2, "EINVAL", true),
        (TLS_TRUSTED_PEER_CERTIFICATES, "ok", false),
        (TLS_CERTIFICATE_CHAIN, "ok", false),
        (TLS_PRIVATE_KEY, "ok", false),
        (TLS_ALPN, "EINVAL", true),
    ] {
        let row = came[option.to_string()].as_array().unwrap();
        assert_eq!(json!(row[..12]), common(long), "{option}");
        assert_eq!(row[12], json!(["ok", "EINVAL"]));
        if last {
            assert_eq!(row[13], "name.test", "a refused set changes nothing");
        }
    }
}

/// Host names that are names or addresses.
const GOOD_NAMES: [&str; 20] = [
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
];

/// Host names that are neither, as Python writes them in a text.
const BAD_NAMES: [&str; 30] = [
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
];

#[test]
fn host_names_are_names_or_addresses() {
    let agent = Agent::start();
    let script = r#"
came = {}
for text_ in args:
    value = text_.encode().decode("unicode_escape").encode("latin-1")
    came[text_] = raw_set(socket.socket(), TLS_HOSTNAME, value + b"\0", len(value) + 1)
out(came)
"#;
    let label63 = "a".repeat(63);
    let label64 = "a".repeat(64);
    let name253 = format!("{0}.{0}.{0}.{1}", label63, "b".repeat(61));
    let name254 = format!("{0}.{0}.{0}.{1}", label63, "b".repeat(62));
    let good: Vec<String> = GOOD_NAMES.iter().map(|name| (*name).to_owned()).chain([label63, name253]).collect();
    let bad: Vec<String> = BAD_NAMES.iter().map(|name| (*name).to_owned()).chain([label64, name254]).collect();
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
    let came = raw(&agent, "option_numbers.py", &[]);
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
    let came = raw(&agent, "option_answers.py", &[&server.port(), NAME, &pki.ca()]);
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
    for option in (TLS_HOSTNAME, TLS_ID, TLS_SESSION_REUSE, 999):
        came.append(raw_set(sock, option, b"name.test\0", 10))
        came.append(raw_get(sock, option, 8)[0])
busy = [[raw_set(sock, TLS_HOSTNAME, b"name.test\0", 10), raw_get(sock, TLS_STATE, 4)[0]] for sock in (plain, client)]
fresh = raw_get(socket.socket(), TLS_STATE, 4)[0]
out([sorted(set(came)), busy, fresh])
"#;
    let came = raw(&agent, script, &[]);
    let busy = json!([["EOPNOTSUPP", "ENOPROTOOPT"], ["EOPNOTSUPP", "ENOPROTOOPT"]]);
    assert_eq!(came, json!([["ENOPROTOOPT"], busy, "ENOPROTOOPT"]));
}
