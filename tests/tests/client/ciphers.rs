//! The list of cipher suites: set, edited, read back, and what a connection makes of it.

use serde_json::{Value, json};
use ssa_tests::{
    agent::Agent,
    app::python,
    pki::{Leaf, Pki},
    server::Server,
};

const NAME: &str = "peer.ssa.test";

/// Short-cuts of the scripts: the list, and setting a name.
const LIST: &str = r#"
DISABLE, LIST, ENABLE = 92, 97, 110
def listed(sock):
    return big(sock, LIST, 4096).rstrip(b"\0").decode().split(":")
def put(sock, option, value):
    return attempt(sock.setsockopt, IPPROTO_TLS, option, text(value))
"#;

fn run(agent: &Agent, script: &str, arguments: &[&str]) -> Value {
    python(agent, &format!("{LIST}{script}"), arguments)
}

#[test]
fn list_is_set_edited_and_read() {
    let agent = Agent::start();
    let script = r#"
came = []
sock = tls("name.test")
whole = listed(sock)
came.append([len(whole) > 10, len(set(whole)) == len(whole), "TLS_AES_256_GCM_SHA384" in whole])
a, b, c = "TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"
came.append([put(sock, LIST, f"{b}:{a}:{b}:{c}"), listed(sock)])
came.append([put(sock, DISABLE, a), listed(sock), put(sock, DISABLE, a), listed(sock)])
came.append([put(sock, ENABLE, c), listed(sock), put(sock, ENABLE, a), listed(sock)])
came.append([put(sock, LIST, "TLS_AES_128_GCM_SHA256:TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), listed(sock)])
before = listed(sock)
wrong = [put(sock, LIST, value) for value in (":", f"{a}:", f":{a}", f"{a}::{b}", "NO-SUCH-SUITE", f"{a}:nope", a.lower(), "HIGH", "x" * 4000, a + " ", ":".join([a] * 170), ":".join([a] * 40))]
wrong += [put(sock, option, value) for option in (DISABLE, ENABLE) for value in ("NO-SUCH-SUITE", f"{a}:{b}", "x" * 100, "x")]
came.append([wrong, listed(sock) == [a]])
came.append([put(sock, ENABLE, "NULL-SHA256"), put(sock, LIST, f"{a}:NULL-SHA256"), put(sock, ENABLE, "ADH-AES256-GCM-SHA384"), listed(sock) == [a]])
came.append([put(sock, LIST, ":".join(whole)), listed(sock) == whole])
for name_ in whole: put(sock, DISABLE, name_)
came.append(listed(sock))
small = tls("name.test")
put(small, LIST, a)
came.append([attempt(big, small, LIST, size) for size in (len(a), len(a) + 1, 8192)])
out(came)
"#;
    let came = run(&agent, script, &[]);
    let (a, b, c) = ("TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305");
    assert_eq!(came[0], json!([true, true, true]), "the policy's own list");
    assert_eq!(came[1], json!(["ok", [b, a, c]]), "named twice, listed once");
    assert_eq!(came[2], json!(["ok", [b, c], "EINVAL", [b, c]]));
    assert_eq!(came[3], json!(["ok", [c, b], "ok", [a, c, b]]), "enabled ones come first");
    assert_eq!(came[4], json!(["ok", [a, b]]), "IANA's names are read, OpenSSL's are written");
    let wrong = came[5][0].as_array().unwrap();
    // The last list only says one name many times.
    let expected: Vec<&str> = (0..11).map(|_| "EINVAL").chain(["ok"]).chain((0..8).map(|_| "EINVAL")).collect();
    assert_eq!(wrong, &expected);
    assert_eq!(came[5][1], true, "a refused set changes nothing");
    assert_eq!(came[6], json!(["EPROTO", "EPROTO", "EPROTO", true]), "known, and never allowed");
    assert_eq!(came[7], json!(["ok", true]));
    assert_eq!(came[8], json!([""]));
    assert_eq!(came[9], json!(["EINVAL", "ok", "ok"]));
}

#[test]
fn connection_uses_the_only_suite_that_is_left() {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    let agent = Agent::start();
    let script = r#"
port, host, ca = args
came = {}
probe = tls(host, ca)
for only in [name_ for name_ in listed(probe) if name_ in ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256",
        "TLS_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305")]:
    sock = tls(host, ca)
    for other in listed(sock):
        if other != only: assert put(sock, DISABLE, other) == "ok"
    came[only] = [connect(sock, "127.0.0.1", port)["result"], string(sock, CIPHER), number(sock, VERSION)]
# The order is the program's: TLS 1.2's are asked for first, TLS 1.3 still wins.
sock = tls(host, ca)
put(sock, LIST, "ECDHE-ECDSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384")
came["ordered"] = [connect(sock, "127.0.0.1", port)["result"], string(sock, CIPHER)]
none = tls(host, ca)
for other in listed(none): put(none, DISABLE, other)
came["none"] = connect(none, "127.0.0.1", port)
rsa = tls(host, ca)
put(rsa, LIST, "ECDHE-RSA-AES128-GCM-SHA256")
came["other key"] = connect(rsa, "127.0.0.1", port)
mixed = tls(host, ca)
put(mixed, LIST, "ECDHE-ECDSA-AES128-GCM-SHA256")
mixed.setsockopt(IPPROTO_TLS, 111, 0x0304)
came["no version"] = connect(mixed, "127.0.0.1", port)
out(came)
"#;
    let came = run(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    for (suite, version) in [
        ("TLS_AES_256_GCM_SHA384", 0x304),
        ("TLS_AES_128_GCM_SHA256", 0x304),
        ("TLS_CHACHA20_POLY1305_SHA256", 0x304),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", 0x303),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", 0x303),
    ] {
        assert_eq!(came[suite], json!(["ok", suite, version]));
    }
    assert_eq!(came["ordered"], json!(["ok", "TLS_AES_128_GCM_SHA256"]));
    for case in ["none", "no version"] {
        assert_eq!(came[case]["result"], "EPROTO", "{case}");
        assert!(came[case]["error"].as_str().unwrap().contains("no cipher suite is left"), "{came}");
    }
    assert_eq!(came["other key"]["result"], "EPROTO");
    assert!(came["other key"]["error"].as_str().unwrap().contains("in common"), "{came}");
}
