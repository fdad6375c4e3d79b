//! `connect(2)` that succeeds, in all the ways that applications call it.

use ssa_tests::{
    agent::Agent,
    app::python,
    nginx::Peer,
    pki::{Leaf, Pki},
    server::{Server, context_with},
};

const NAME: &str = "peer.ssa.test";

/// A script that connects, echoes a line, and tells what the socket says.
const FETCH: &str = r#"
host, port, name, ca = args
sock = tls(name, ca, socket.AF_INET6 if ":" in host else socket.AF_INET)
came = connect(sock, host, port)
sock.sendall(b"hello")
came["echo"] = sock.recv(100).decode()
came["cipher"], came["version"], came["resumed"] = (
    string(sock, TLS_CHOSEN_CIPHER),
    number(sock, TLS_VERSION_CONN),
    number(sock, TLS_RESUMED_SESSION),
)
came["peer"], came["local"] = sock.getpeername()[:2], sock.getsockname()[:2]
came["id"], came["name"] = id_of(sock), string(sock, TLS_HOSTNAME)
out(came)
"#;

fn echo() -> (Agent, Pki, Server) {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME, "127.0.0.1"])));
    (Agent::start(), pki, server)
}

#[test]
fn ipv4_socket_speaks_tls() {
    let (agent, pki, server) = echo();
    let came = python(&agent, FETCH, &["127.0.0.1", &server.port(), NAME, &pki.ca()]);
    assert_eq!(came["result"], "ok", "{came}");
    assert_eq!(came["echo"], "hello");
    assert_eq!(came["error"], "");
    assert_eq!(came["state"], 2);
    assert_eq!(came["version"], 0x0304);
    assert_eq!(came["cipher"], "TLS_AES_256_GCM_SHA384");
    assert_eq!(came["resumed"], 0);
    assert_eq!(came["name"], NAME);
    assert_ne!(came["id"], 0);
}

#[test]
fn ipv6_socket_speaks_tls() {
    let pki = Pki::new();
    let server = Server::echo("::1", &pki.leaf(Leaf::of(&[NAME])));
    let agent = Agent::start();
    let came = python(&agent, FETCH, &["::1", &server.port(), NAME, &pki.ca()]);
    assert_eq!((&came["result"], &came["echo"]), (&"ok".into(), &"hello".into()), "{came}");
    assert_eq!(came["peer"][0], "::1");
}

#[test]
fn v4_mapped_address_speaks_tls() {
    let (agent, pki, server) = echo();
    let came = python(&agent, FETCH, &["::ffff:127.0.0.1", &server.port(), NAME, &pki.ca()]);
    assert_eq!((&came["result"], &came["echo"]), (&"ok".into(), &"hello".into()), "{came}");
    assert_eq!(came["peer"][0], "::ffff:127.0.0.1");
}

#[test]
fn peer_and_local_address_are_those_of_the_peer_leg() {
    let pki = Pki::new();
    let from: ssa_tests::server::Shared<Option<std::net::SocketAddr>> = Default::default();
    let seen = std::sync::Arc::clone(&from);
    let context = ssa_tests::server::context(&pki.leaf(Leaf::of(&[NAME])));
    let server = Server::tls("127.0.0.1", context, move |stream| {
        *seen.lock().unwrap() = stream.get_ref().peer_addr().ok();
        ssa_tests::server::echo(stream);
    });
    let agent = Agent::start();
    let came = python(&agent, FETCH, &["127.0.0.1", &server.port(), NAME, &pki.ca()]);
    assert_eq!(came["peer"], serde_json::json!(["127.0.0.1", server.addr.port()]));
    let from = from.lock().unwrap().expect("it has connected");
    assert_eq!(came["local"], serde_json::json!([from.ip().to_string(), from.port()]));
}

#[test]
fn address_as_name_is_verified_as_an_address() {
    let (agent, pki, server) = echo();
    let came = python(&agent, FETCH, &["127.0.0.1", &server.port(), "127.0.0.1", &pki.ca()]);
    assert_eq!((&came["result"], &came["echo"]), (&"ok".into(), &"hello".into()), "{came}");
}

#[test]
fn inline_pem_is_trusted() {
    let (agent, pki, server) = echo();
    let came = python(&agent, FETCH, &["127.0.0.1", &server.port(), NAME, &pki.ca_pem()]);
    assert_eq!((&came["result"], &came["echo"]), (&"ok".into(), &"hello".into()), "{came}");
}

#[test]
fn tls_1_2_peer_is_spoken_to() {
    let pki = Pki::new();
    let context = context_with(&pki.leaf(Leaf::of(&[NAME])), |acceptor| {
        acceptor.set_max_proto_version(Some(openssl::ssl::SslVersion::TLS1_2)).unwrap();
    });
    let server = Server::tls("127.0.0.1", context, ssa_tests::server::echo);
    let agent = Agent::start();
    let came = python(&agent, FETCH, &["127.0.0.1", &server.port(), NAME, &pki.ca()]);
    assert_eq!((&came["result"], &came["version"]), (&"ok".into(), &0x0303.into()), "{came}");
}

#[test]
fn nginx_serves_a_plain_socket() {
    let pki = Pki::new();
    let (chain, key) = pki.write("nginx", &pki.leaf_below_intermediate(Leaf::of(&[NAME])));
    let nginx = Peer::nginx(&pki, &chain, &key);
    let agent = Agent::start();
    let script = r#"
port, name, ca = args
sock = tls(name, ca)
came = connect(sock, "127.0.0.1", port)
sock.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
came["body"] = read_all(sock).decode().split("\r\n\r\n")[1]
out(came)
"#;
    let came = python(&agent, script, &[&nginx.port(), NAME, &pki.ca()]);
    assert_eq!(came["body"], format!("ssa TLSv1.3 {NAME} . \n"), "{came}");
}

#[test]
fn s_server_answers_a_plain_socket() {
    let pki = Pki::new();
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME])));
    for version in ["-tls1_2", "-tls1_3"] {
        let peer = Peer::s_server(&chain, &key, &[version]);
        let agent = Agent::start();
        let script = r#"
port, name, ca = args
sock = tls(name, ca)
came = connect(sock, "127.0.0.1", port)
sock.sendall(b"abc\n")
came["answer"] = sock.recv(100).decode()
out(came)
"#;
        let came = python(&agent, script, &[&peer.port(), NAME, &pki.ca()]);
        assert_eq!(came["answer"], "cba\n", "{came}");
    }
}

#[test]
fn nonblocking_connect_is_in_progress_then_writable() {
    let (agent, pki, server) = echo();
    let came = python(&agent, "connect_nonblocking.py", &[&server.port(), NAME, &pki.ca()]);
    for row in came.as_array().expect("a list") {
        assert_eq!(*row, serde_json::json!(["EINPROGRESS", 1, "EALREADY", 1, 0, 2, "hello"]));
    }
}

#[test]
fn nonblocking_refusal_comes_as_so_error() {
    let (agent, pki, server) = echo();
    let script = r#"
port, ca = args
sock = tls("other.ssa.test", ca)
sock.setblocking(False)
first = attempt(sock.connect, ("127.0.0.1", int(port)))
poller = select.poll(); poller.register(sock, select.POLLOUT)
events = poller.poll(5000)[0][1]
out([first, bool(events & select.POLLERR), name(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)), state(sock)])
"#;
    let came = python(&agent, script, &[&server.port(), &pki.ca()]);
    assert_eq!(came, serde_json::json!(["EINPROGRESS", true, "EPROTO", 4]));
}

#[test]
fn socket_is_retried_after_a_failure() {
    let (agent, pki, server) = echo();
    let closed = ssa_tests::server::closed_port("127.0.0.1").to_string();
    let script = r#"
port, closed, name, ca = args
sock = tls("other.ssa.test", ca)
came = [connect(sock, "127.0.0.1", closed), connect(sock, "127.0.0.1", port)]
sock.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, text(name))
came.append(connect(sock, "127.0.0.1", port))
sock.sendall(b"hello")
came[2]["echo"] = sock.recv(10).decode()
out(came)
"#;
    let came = python(&agent, script, &[&server.port(), &closed, NAME, &pki.ca()]);
    let results: Vec<_> = came.as_array().unwrap().iter().map(|row| row["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["ECONNREFUSED", "EPROTO", "ok"], "{came}");
    assert_eq!(came[2]["error"], "", "an old error is forgotten");
    assert_eq!(came[2]["echo"], "hello");
}

#[test]
fn disconnected_socket_is_fresh_again() {
    let (agent, pki, server) = echo();
    let script = r#"
port, name, ca = args
import ctypes
sock = tls(name, ca)
came = [connect(sock, "127.0.0.1", port)["result"]]
libc = ctypes.CDLL(None, use_errno=True)
unspec = (ctypes.c_char * 16)()
came.append(libc.connect(sock.fileno(), unspec, 16))
came.append(state(sock))
came.append(connect(sock, "127.0.0.1", port)["result"])
sock.sendall(b"hello")
came.append(sock.recv(10).decode())
out(came)
"#;
    let came = python(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(came, serde_json::json!(["ok", 0, 0, "ok", "hello"]));
}

#[test]
fn threads_connect_at_once() {
    let (agent, pki, server) = echo();
    let script = r#"
port, name, ca = args
came = []
def work(number):
    for turn in range(20):
        sock = tls(name, ca)
        sock.connect(("127.0.0.1", int(port)))
        line = f"{number}.{turn}".encode()
        sock.sendall(line)
        came.append(sock.recv(20) == line)
threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
out([len(came), all(came)])
"#;
    let came = python(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(came, serde_json::json!([200, true]));
}

#[test]
fn forked_duplicated_and_passed_sockets_are_the_same_socket() {
    let (agent, pki, server) = echo();
    let came = python(&agent, "connect_shared.py", &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(came, serde_json::json!([true, "hello", "still", 2]));
}

#[test]
fn five_hundred_connect_at_once() {
    let (agent, pki, server) = echo();
    let came = python(&agent, "connect_many.py", &[&server.port(), NAME, &pki.ca()]);
    let many = ssa_tests::few(500);
    assert_eq!(came, serde_json::json!([many, [], many]));
}

#[test]
fn server_that_speaks_first_is_heard() {
    let pki = Pki::new();
    let context = ssa_tests::server::context(&pki.leaf(Leaf::of(&[NAME])));
    let server = Server::tls("127.0.0.1", context, |mut stream| {
        use std::io::Write as _;
        stream.write_all(b"220 ready").unwrap();
        ssa_tests::server::echo(stream);
    });
    let agent = Agent::start();
    let script = r#"
port, name, ca = args
sock = tls(name, ca)
sock.connect(("127.0.0.1", int(port)))
out(sock.recv(20).decode())
"#;
    assert_eq!(python(&agent, script, &[&server.port(), NAME, &pki.ca()]), "220 ready");
}
