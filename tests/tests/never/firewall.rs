//! Firewalls by cgroup and user: what they forbid an application it can't do through the agent.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use openssl::ssl::{SslConnector, SslMethod};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use ssa_tests::{
    agent::Agent,
    app::{App, python},
    firewall::allow_only,
    pki::{Leaf, Pki},
    server::Server,
};

const NAME: &str = "peer.ssa.test";
/// Addresses that a service must be allowed, for its applications to meet the agent.
const AGENT: (Ipv4Addr, u32) = (Ipv4Addr::new(127, 204, 0, 0), 0xfffe_0000);
const ALLOWED: (Ipv4Addr, u32) = (Ipv4Addr::new(127, 0, 0, 2), u32::MAX);

#[test]
fn cgroup_firewall_holds_for_what_tls_sockets_reach() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let agent = Agent::start();
    allow_only(agent.cgroup(), &[AGENT, ALLOWED]);
    let (allowed, denied) = (Server::echo("127.0.0.2", &leaf), Server::echo("127.0.0.3", &leaf));
    let script = r#"
name_, ca, allowed, denied = args
sock = tls(name_, ca)
came = [connect(sock, "127.0.0.2", int(allowed))["result"]]
sock.send(b"abc"); came.append(sock.recv(10).decode())
came.append(connect(tls(name_, ca), "127.0.0.3", int(denied))["result"])
plain = socket.socket(); plain.settimeout(1)
try: plain.connect(("127.0.0.3", int(denied))); came.append("connected")
except TimeoutError: came.append("nothing")
out(came)
"#;
    let came = python(&agent, script, &[NAME, &pki.ca(), &allowed.port(), &denied.port()]);
    assert_eq!(came, json!(["ok", "abc", "EHOSTUNREACH", "nothing"]));
    ssa_tests::eventually("one is there, and nobody else", Duration::from_secs(5), || {
        (allowed.accepted(), denied.accepted()) == (1, 0)
    });
}

#[test]
fn firewall_that_keeps_the_agent_out_is_named() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let agent = Agent::start();
    allow_only(agent.cgroup(), &[ALLOWED]);
    let server = Server::echo("127.0.0.2", &leaf);
    let script = r#"
name_, ca, port = args
out(connect(tls(name_, ca), "127.0.0.2", int(port)))
"#;
    let came = python(&agent, script, &[NAME, &pki.ca(), &server.port()]);
    assert_eq!(came["result"], "EHOSTUNREACH", "{came}");
    assert!(came["error"].as_str().unwrap().contains("must let it reach 127.204.0.0/15"), "{came}");
}

#[test]
fn cgroup_firewall_holds_for_clients_of_tls_listeners() {
    let pki = Pki::new();
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME])));
    let agent = Agent::start();
    allow_only(agent.cgroup(), &[AGENT, ALLOWED]);
    let script = r#"
chain, key = args
sock = listener(chain, key)
out(sock.getsockname()[1])
conn, peer = sock.accept()
conn.send(b"abc"); conn.close()
out(peer[0])
"#;
    let mut app = App::start(&agent, script, &[&chain, &key]);
    let port = u16::try_from(app.said().as_u64().unwrap()).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let from = |host: [u8; 4]| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((host, 0)).into()).unwrap();
        socket.connect_timeout(&to.into(), Duration::from_secs(3)).map(|()| TcpStream::from(socket))
    };
    assert!(from([127, 0, 0, 3]).is_err(), "a client that is kept from the service has reached the agent");
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_ca_file(pki.ca()).unwrap();
    let mut stream = connector.build().connect(NAME, from([127, 0, 0, 2]).unwrap()).unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).unwrap();
    let _gone = stream.shutdown();
    let _gone = stream.flush();
    assert_eq!(got, "abc");
    assert_eq!(app.finish(), "127.0.0.2");
}

#[test]
fn firewall_by_user_and_cgroup_sees_the_application() {
    let pki = Pki::new();
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME])));
    fs::set_permissions(pki.ca(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let agent = Agent::start();
    let inner = agent.cgroup().join("inner");
    fs::create_dir(&inner).unwrap();
    // In a network namespace of its own; nft looks for cgroups below /sys/fs/cgroup.
    let outer = agent.cgroup().file_name().unwrap().to_str().unwrap();
    let came = python(&agent, "firewall_by_owner.py", &[NAME, &pki.ca(), &chain, &key, outer, "inner"]);
    assert_eq!(came, json!(["ok", "ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH"]));
    fs::remove_dir(&inner).unwrap();
}
