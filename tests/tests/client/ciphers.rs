//! The list of cipher suites: set, edited, read back, and what a connection makes of it.

use serde_json::json;
use ssa_tests::{agent::Agent, app::python, server};

const NAME: &str = "peer.ssa.test";

#[test]
fn cipher_list_is_set_edited_and_read() {
    let agent = Agent::start();
    let came = python(&agent, "cipher_list.py", &[]);
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
    let (pki, server) = server::echo_peer(NAME);
    let agent = Agent::start();
    let came = python(&agent, "cipher_choice.py", &[&server.port(), NAME, &pki.ca()]);
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
