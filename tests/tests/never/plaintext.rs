//! Plaintext on the wire: none, whatever an application does with its socket.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::Duration,
};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::python,
    eventually,
    pki::{Leaf, Pki},
    server::Server,
    sniffer::{self, Sniffer},
};

use crate::canary::*;

#[test]
fn sniffer_sees_plaintext_where_there_is_some() {
    // The test of the tests: a plain socket's canary is found.
    let server = Server::tcp("127.0.0.1", |mut stream| {
        let _read = stream.read(&mut [0; 4096]);
    });
    let sniffer = Sniffer::start();
    std::net::TcpStream::connect(server.addr).unwrap().write_all(CANARY).unwrap();
    thread::sleep(Duration::from_millis(100));
    let packets = sniffer.stop();
    assert!(packets.iter().any(|packet| sniffer::holds(packet, CANARY)
        && sniffer::ports(packet).is_some_and(|(_from, to)| to == server.addr.port())));
}

#[test]
fn live_connection_shows_no_plaintext_to_the_peer() {
    let (pki, server) = echo();
    let agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
sock = tls(host, ca)
sock.connect(('127.0.0.1', int(port)))
sock.sendall(canary)
out(sock.recv(100) == canary)"
    );
    assert_eq!(python(&agent, &script, &arguments(&server.port(), &pki.ca())), true);
    let packets = sniffer.stop();
    assert!(packets.len() > 20, "the sniffer works");
    assert_unseen(&packets, &server);
}

#[test]
fn socket_with_a_refused_option_never_speaks_plaintext() {
    let (pki, server) = echo();
    let agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
came = []
for option, value in ((101, 1), (TLS_REVOCATION_CHECKS, 2), (TLS_HOSTNAME, b'no nul'), (TLS_HOSTNAME, b'.test\\0'), (999, 1), (TLS_CONTEXT, b'12345678')):
    sock = socket.socket()
    came.append([attempt(sock.setsockopt, IPPROTO_TLS, option, value), attempt(sock.connect, ('127.0.0.1', int(port)))])
    send_regardless(sock)
out(came)"
    );
    let came = python(&agent, &script, &arguments(&server.port(), &pki.ca()));
    let expected = json!([
        ["ENOPROTOOPT", "EPROTO"],
        ["EINVAL", "EPROTO"],
        ["EINVAL", "EPROTO"],
        ["EINVAL", "EPROTO"],
        ["ENOPROTOOPT", "EPROTO"],
        ["EINVAL", "EPROTO"]
    ]);
    assert_eq!(came, expected);
    assert_eq!(server.accepted(), 0);
    assert_unseen(&sniffer.stop(), &server);
}

#[test]
fn mptcp_and_smc_sockets_refuse_the_options() {
    let plain = Server::tcp("127.0.0.1", |mut stream| {
        let _read = stream.read(&mut [0; 100]);
    });
    let agent = Agent::start();
    let came = python(&agent, "other_stream_sockets.py", &[&plain.port()]);
    for kind in ["mptcp", "mptcp6"] {
        assert_eq!(
            json!([came[kind][0], came[kind][1], came[kind][3]]),
            json!(["ENOPROTOOPT", "EPROTO", "ok"]),
            "{came}"
        );
        // Before 6.2 the kernel itself knows no Fast Open for MPTCP.
        assert!(came[kind][2] == "EPROTO" || came[kind][2] == "EOPNOTSUPP", "{came}");
    }
    assert!(came.get("smc").is_none_or(|errnos| errnos == &json!(["ENOPROTOOPT"])), "{came}");
    eventually("both of the others are there, and nobody else", Duration::from_secs(5), || plain.accepted() == 2);
}

#[test]
fn fast_open_never_gets_ahead_of_the_verdict() {
    let (pki, server) = echo();
    let stranger = Pki::new();
    let bad = Server::echo("127.0.0.1", &stranger.leaf(Leaf::of(&[NAME])));
    let agent = Agent::start();
    let sniffer = Sniffer::start();
    let script = format!(
        "{SEND_CANARY}
FASTOPEN_CONNECT, MSG_FASTOPEN = 30, 0x20000000
came = []
before = socket.socket()
before.setsockopt(socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1)
before.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, text(host))
came.append(attempt(before.connect, ('127.0.0.1', int(port))))
after = tls(host, ca)
came.append(attempt(after.setsockopt, socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1))
came.append(attempt(after.connect, ('127.0.0.1', int(port))))
good, bad = tls(host, ca), tls(host, ca)
came.append(attempt(good.sendto, canary, MSG_FASTOPEN, ('127.0.0.1', int(port))))
came.append(good.recv(100) == canary)
came.append(attempt(bad.sendto, canary, MSG_FASTOPEN, ('127.0.0.1', int(more[0]))))
plain = socket.socket()
came.append(attempt(plain.setsockopt, socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1))
out(came)"
    );
    let came = python(&agent, &script, &[&server.port(), NAME, &pki.ca(), &bad.port()]);
    assert_eq!(came, json!(["EOPNOTSUPP", "EOPNOTSUPP", "ok", "ok", true, "EPROTO", "ok"]));
    let packets = sniffer.stop();
    assert_unseen(&packets, &server);
    assert_unseen(&packets, &bad);
}
