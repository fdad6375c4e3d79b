//! Contexts: adopted, frozen, resumed, and each its user's.

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    pki::{Leaf, Pki},
    server::{Server, context_with},
};

use crate::raw::*;

#[test]
fn adopted_context_brings_name_trust_and_sessions() {
    let (agent, pki, server) = echo();
    let came = raw(&agent, "context_adopted.py", &[&server.port(), NAME, &pki.ca()]);
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
context = owner.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
resumed = 0
for turn in range(50):
    sock = tls(None); sock.setsockopt(IPPROTO_TLS, TLS_CONTEXT, context)
    sock.connect(("127.0.0.1", int(port)))
    sock.sendall(b"x"); sock.recv(1)
    resumed += number(sock, TLS_RESUMED_SESSION)
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
owner.setsockopt(IPPROTO_TLS, TLS_SESSION_REUSE, 0)
context = owner.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
came = []
for turn in range(3):
    sock = socket.socket(); sock.setsockopt(IPPROTO_TLS, TLS_CONTEXT, context)
    sock.connect(("127.0.0.1", int(port))); sock.sendall(b"x"); sock.recv(1)
    came.append([number(sock, TLS_RESUMED_SESSION), number(sock, TLS_SESSION_REUSE)])
separate = []
for turn in range(2):
    sock = tls(host, ca); sock.connect(("127.0.0.1", int(port))); sock.sendall(b"x"); sock.recv(1)
    separate.append(number(sock, TLS_RESUMED_SESSION))
out([came, separate])
"#;
    let came = raw(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(came, json!([[[0, 0], [0, 0], [0, 0]], [0, 0]]), "and separate contexts share nothing");
}

#[test]
fn contexts_are_of_their_user_and_of_their_life() {
    let agent = Agent::start();
    let came = raw(&agent, "context_life.py", &[]);
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
