//! Who the peer is, who the application is, and what they agree on.

use std::time::Duration;

use openssl::{
    ec::{EcGroup, EcKey},
    nid::Nid,
    pkey::PKey,
    rsa::Rsa,
    ssl::SslVerifyMode,
};
use serde_json::{Value, json};
use ssa_tests::{
    agent::Agent,
    app::python,
    eventually,
    in_tls::{TLS_CERTIFICATE_CHAIN, TLS_PRIVATE_KEY},
    nginx::Peer,
    pki::{Leaf, Pki},
    server::{self, Server, context_with},
};

const NAME: &str = "peer.ssa.test";

#[test]
fn peer_identity_is_told_also_when_resumed() {
    let pki = Pki::new();
    let identity = pki.leaf_below_intermediate(Leaf::of(&[NAME]));
    let digest = identity.certificate.digest(openssl::hash::MessageDigest::sha256()).unwrap();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let server = Server::echo("127.0.0.1", &identity);
    let agent = Agent::start();
    let came = python(&agent, "peer_facts.py", &[&server.port(), NAME, &pki.ca()]);
    let subject = format!("CN={NAME},O=SSA tests");
    assert_eq!(came, json!([[0, subject, 3, hex], [1, subject, 3, hex]]));
}

#[test]
fn version_limits_hold_for_the_handshake() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let both = Server::echo("127.0.0.1", &leaf);
    let old = Server::tls(
        "127.0.0.1",
        context_with(&leaf, |acceptor| {
            acceptor.set_max_proto_version(Some(openssl::ssl::SslVersion::TLS1_2)).unwrap();
        }),
        ssa_tests::server::echo,
    );
    let agent = Agent::start();
    let script = r#"
both, old, host, ca = args
MIN, MAX = TLS_VERSION_MIN, TLS_VERSION_MAX
came = []
for option in (MIN, MAX):
    came.append([attempt(tls(host).setsockopt, IPPROTO_TLS, option, value) for value in
                 (0x0303, 0x0304, 0x0302, 0x0301, 0x0300, 0x0305, 0, 5, -1, 0x02ff)])
sock = tls(host); sock.setsockopt(IPPROTO_TLS, MAX, 0x0303)
came.append([attempt(sock.setsockopt, IPPROTO_TLS, MIN, 0x0304), number(sock, MIN), number(sock, MAX)])
sock = tls(host, ca); sock.setsockopt(IPPROTO_TLS, MAX, 0x0303); sock.connect(("127.0.0.1", int(both)))
came.append(number(sock, TLS_VERSION_CONN))
sock = tls(host, ca); sock.setsockopt(IPPROTO_TLS, MIN, 0x0304)
came.append(connect(sock, "127.0.0.1", old)["result"])
out(came)
"#;
    let came = python(&agent, script, &[&both.port(), &old.port(), NAME, &pki.ca()]);
    let sets = json!(["ok", "ok", "EPROTO", "EPROTO", "EPROTO", "EINVAL", "EINVAL", "EINVAL", "EINVAL", "EINVAL"]);
    assert_eq!((&came[0], &came[1]), (&sets, &sets));
    assert_eq!(came[2], json!(["EINVAL", 0x0303, 0x0303]), "the lowest may not be above the highest");
    assert_eq!((&came[3], &came[4]), (&json!(0x0303), &json!("EPROTO")));
}

#[test]
fn alpn_is_offered_and_the_choice_is_told() {
    let pki = Pki::new();
    let (chain, key) = pki.write("nginx", &pki.leaf(Leaf::of(&[NAME])));
    let nginx = Peer::nginx(&pki, &chain, &key);
    let agent = Agent::start();
    let script = r#"
port, host, ca = args
came = []
for offer in ("h2,http/1.1", "http/1.1", None):
    sock = tls(host, ca)
    if offer: sock.setsockopt(IPPROTO_TLS, TLS_ALPN, text(offer))
    before = string(sock, TLS_ALPN)
    sock.connect(("127.0.0.1", int(port)))
    came.append([before, string(sock, TLS_ALPN)])
came.append([attempt(tls(host).setsockopt, IPPROTO_TLS, TLS_ALPN, value) for value in
             (b",\0", b"a,\0", b",a\0", b"a,,b\0", b"a\0", b"a b,c\0", b"x" * 255 + b"\0", b"x" * 256 + b"\0")])
out(came)
"#;
    let came = python(&agent, script, &[&nginx.port(), NAME, &pki.ca()]);
    assert_eq!(came[0], json!(["h2,http/1.1", "h2"]));
    assert_eq!(came[1], json!(["http/1.1", "http/1.1"]));
    assert_eq!(came[2], json!(["", ""]));
    assert_eq!(came[3], json!(["EINVAL", "EINVAL", "EINVAL", "EINVAL", "ok", "ok", "ok", "EINVAL"]));
}

#[test]
fn session_is_resumed_within_its_ttl_only() {
    let (pki, server) = server::echo_peer(NAME);
    let agent = Agent::start();
    let came = python(&agent, "session_life.py", &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(came, json!([[[0, 0, 0], [0, 1, 0], [0, 1, 1]], 7200, "EINVAL"]));
}

/// Connects to an nginx that wants a client certificate, with these chains and keys.
fn with_certificate(agent: &Agent, nginx: &Peer, pki: &Pki, sets: &[(i32, &str)]) -> Value {
    let script = r#"
port, host, ca, *sets = args
sock = tls(host, ca)
for option, value in zip(sets[::2], sets[1::2]):
    sock.setsockopt(IPPROTO_TLS, int(option), text(value))
came = connect(sock, "127.0.0.1", port)
if came["result"] == "ok":
    sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    came["answer"] = read_all(sock).decode().split("\r\n\r\n")[-1].strip()
out(came)
"#;
    let numbers: Vec<String> = sets.iter().map(|(option, _value)| option.to_string()).collect();
    let (port, ca) = (nginx.port(), pki.ca());
    let mut arguments = vec![port.as_str(), NAME, ca.as_str()];
    for (number, (_option, value)) in numbers.iter().zip(sets) {
        arguments.extend([number.as_str(), value]);
    }
    python(agent, script, &arguments)
}

#[test]
fn client_certificate_is_shown_to_nginx_that_demands_one() {
    let pki = Pki::new();
    let (chain, key) = pki.write("nginx", &pki.leaf(Leaf::of(&[NAME])));
    let demand = format!("ssl_client_certificate {}; ssl_verify_client on; ssl_verify_depth 3;", pki.ca());
    let nginx = Peer::nginx_with(&pki, &chain, &key, &demand);
    let client = pki.leaf_below_intermediate(Leaf::of(&["client.ssa.test"]));
    let (mine, my_key) = pki.write("client", &client);
    let inline_key = String::from_utf8(client.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let agent = Agent::start();
    for sets in [
        [(TLS_CERTIFICATE_CHAIN, mine.as_str()), (TLS_PRIVATE_KEY, my_key.as_str())],
        [(TLS_CERTIFICATE_CHAIN, mine.as_str()), (TLS_PRIVATE_KEY, inline_key.as_str())],
    ] {
        let came = with_certificate(&agent, &nginx, &pki, &sets);
        let answer = came["answer"].as_str().unwrap_or_default();
        assert!(answer.ends_with("CN=client.ssa.test,O=SSA tests"), "{came}");
    }
    let came = with_certificate(&agent, &nginx, &pki, &[]);
    assert!(came["answer"].as_str().unwrap().contains("No required SSL certificate was sent"), "{came}");
}

/// Certificates with keys of several types: the one is shown that the peer understands. Each key goes to
/// the latest chain without one.
#[test]
fn peer_gets_the_certificate_whose_key_it_understands() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let keys = [
        (
            "ec",
            PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(Nid::SECP384R1).unwrap()).unwrap()).unwrap(),
        ),
        ("rsa", PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()),
        ("ed25519", PKey::generate_ed25519().unwrap()),
    ];
    let files: Vec<(String, String)> =
        keys.map(|(name, key)| pki.write(name, &pki.leaf_with_key(Leaf::of(&[name]), key))).into();
    let agent = Agent::start();
    let [(ec, ec_key), (rsa, rsa_key), (ed, ed_key)] = &files[..] else { panic!("three") };
    let in_turn = [
        (TLS_CERTIFICATE_CHAIN, ec),
        (TLS_PRIVATE_KEY, ec_key),
        (TLS_CERTIFICATE_CHAIN, rsa),
        (TLS_PRIVATE_KEY, rsa_key),
        (TLS_CERTIFICATE_CHAIN, ed),
        (TLS_PRIVATE_KEY, ed_key),
    ];
    let nested = [
        (TLS_CERTIFICATE_CHAIN, ec),
        (TLS_CERTIFICATE_CHAIN, rsa),
        (TLS_CERTIFICATE_CHAIN, ed),
        (TLS_PRIVATE_KEY, ed_key),
        (TLS_PRIVATE_KEY, rsa_key),
        (TLS_PRIVATE_KEY, ec_key),
    ];
    for (algorithms, shown) in
        [("rsa_pss_rsae_sha256", "rsa"), ("ecdsa_secp384r1_sha384", "ec"), ("ed25519", "ed25519")]
    {
        let ca = pki.ca();
        let context = context_with(&leaf, |acceptor| {
            acceptor.set_ca_file(&ca).unwrap();
            acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
            // The server's own certificate needs one, too; it is the client's choice that counts.
            acceptor
                .set_sigalgs_list("ecdsa_secp256r1_sha256:rsa_pss_rsae_sha256:ecdsa_secp384r1_sha384:ed25519")
                .unwrap();
            set_client_sigalgs(acceptor, algorithms);
        });
        let server = Server::tls("127.0.0.1", context, |mut stream| {
            use std::io::Write as _;
            let subject = stream.ssl().peer_certificate().map(|certificate| {
                certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next().unwrap().data().to_string().unwrap()
            });
            let _gone = stream.write_all(subject.unwrap_or_default().as_bytes());
            let _gone = stream.shutdown();
        });
        for sets in [in_turn, nested] {
            let script = r#"
port, host, ca, *sets = args
sock = tls(host, ca)
for option, value in zip(sets[::2], sets[1::2]): sock.setsockopt(IPPROTO_TLS, int(option), text(value))
came = connect(sock, "127.0.0.1", port)
out([came["result"], came["error"], came["result"] == "ok" and read_all(sock).decode()])
"#;
            let numbers = sets.map(|(number, _value): (i32, _)| number.to_string());
            let (port, ca) = (server.port(), pki.ca());
            let mut arguments = vec![port.as_str(), NAME, ca.as_str()];
            for (number, (_number, value)) in numbers.iter().zip(&sets) {
                arguments.extend([number.as_str(), value.as_str()]);
            }
            assert_eq!(python(&agent, script, &arguments), json!(["ok", "", shown]));
        }
    }
}

/// Sets the signatures that a server takes from clients (`SSL_CTX_set1_client_sigalgs_list(3)`).
fn set_client_sigalgs(acceptor: &mut openssl::ssl::SslAcceptorBuilder, algorithms: &str) {
    const SSL_CTRL_SET_CLIENT_SIGALGS_LIST: i32 = 102;
    let list = std::ffi::CString::new(algorithms).unwrap();
    // SAFETY: the context is alive, and OpenSSL copies the text.
    let done = unsafe {
        openssl_sys::SSL_CTX_ctrl(
            acceptor.as_ptr(),
            SSL_CTRL_SET_CLIENT_SIGALGS_LIST,
            0,
            list.as_ptr().cast_mut().cast(),
        )
    };
    assert_eq!(done, 1);
}

#[test]
fn unusable_credentials_get_eproto_and_a_reason() {
    let pki = Pki::new();
    let (chain, key) = pki.write("nginx", &pki.leaf(Leaf::of(&[NAME])));
    let nginx = Peer::nginx(&pki, &chain, &key);
    let other = pki.leaf(Leaf::of(&["other.ssa.test"]));
    let (_other, other_key) = pki.write("other", &other);
    let cipher = openssl::symm::Cipher::aes_256_cbc();
    let encrypted = other.key.private_key_to_pem_pkcs8_passphrase(cipher, b"secret").unwrap();
    let encrypted = String::from_utf8(encrypted).unwrap();
    let agent = Agent::start();
    let cases: [(&[(i32, &str)], &str); 6] = [
        (&[(TLS_CERTIFICATE_CHAIN, &chain), (TLS_PRIVATE_KEY, &other_key)], "TLS_PRIVATE_KEY: the key does not fit"),
        (&[(TLS_CERTIFICATE_CHAIN, &chain), (TLS_PRIVATE_KEY, &encrypted)], "TLS_PRIVATE_KEY: the key is encrypted"),
        (&[(TLS_CERTIFICATE_CHAIN, &chain)], "TLS_CERTIFICATE_CHAIN: the chain has no key"),
        (&[(TLS_PRIVATE_KEY, &key)], "TLS_PRIVATE_KEY: set the key's chain first"),
        (&[(TLS_CERTIFICATE_CHAIN, &key)], "TLS_CERTIFICATE_CHAIN: no certificate found"),
        (&[(TLS_CERTIFICATE_CHAIN, &chain), (TLS_PRIVATE_KEY, &chain)], "TLS_PRIVATE_KEY: not a PEM private key"),
    ];
    for (sets, text) in cases {
        let came = with_certificate(&agent, &nginx, &pki, sets);
        assert_eq!(came["result"], "EPROTO", "{text}: {came}");
        assert!(came["error"].as_str().unwrap().starts_with(text), "{text}: {came}");
    }
}

#[test]
fn chain_is_given_out_whole_and_one_by_one() {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf_below_intermediate(Leaf::of(&[NAME])));
    let mut agent = Agent::start();
    let mut app = ssa_tests::app::App::start(&agent, "peer_chain.py", &[&server.port(), NAME, &pki.ca()]);
    let came = app.said();
    assert_eq!(came["count"], 3);
    for key in ["hashes", "root", "whole"] {
        assert_eq!(came[key], true, "{key}");
    }
    assert_eq!(came["parts"], json!([[true, "EINVAL"], [true, true], [true, true]]));
    assert_eq!(came["one"], json!(["ok", "EINVAL", "EINVAL"]));
    assert_eq!(came["past"], json!(["ok", "ENOENT", "ENOENT", "ENOPROTOOPT", "ENOPROTOOPT"]));
    app.go();
    assert_eq!(app.said(), true, "another socket's close takes nothing away");
    agent.kill();
    app.go();
    assert_eq!(app.said(), json!([true, true]));
    agent.restart();
    app.go();
    assert_eq!(app.said(), json!([true, true]), "a new agent keeps what open sockets have");
    app.go();
    assert_eq!(app.said(), true);
    app.go();
    assert_eq!(app.said(), "closed");
    eventually("no certificate is left", Duration::from_secs(5), || {
        agent.entries("CHAINS") == 0 && agent.entries("CERTIFICATES") == 0
    });
}
