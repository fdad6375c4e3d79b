//! Options at other levels: what a program sets on its socket holds on the connection to the peer.

use std::{net::SocketAddr, os::fd::FromRawFd as _, time::Duration};

use serde_json::json;
use socket2::Socket;
use ssa_tests::{
    agent::Agent,
    app::{App, python},
    eventually,
    pki::{Leaf, Pki},
    server::Server,
};

const NAME: &str = "peer.ssa.test";

/// The agent's sockets that are connected to this address (pidfd_getfd(2)).
fn peer_legs(agent: &Agent, to: SocketAddr) -> Vec<Socket> {
    let mut found = Vec::new();
    // SAFETY: plain system calls; a descriptor that is returned is ours alone.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, agent.pid().as_raw(), 0);
        assert!(pidfd >= 0);
        for fd in 0..1024 {
            let own = libc::syscall(libc::SYS_pidfd_getfd, pidfd, fd, 0);
            if own >= 0 {
                let socket = Socket::from_raw_fd(i32::try_from(own).unwrap());
                if socket.peer_addr().is_ok_and(|addr| addr.as_socket() == Some(to)) {
                    found.push(socket);
                }
            }
        }
        libc::close(i32::try_from(pidfd).unwrap());
    }
    found
}

fn option(socket: &Socket, level: i32, name: i32) -> i32 {
    use std::os::fd::AsRawFd as _;
    let (mut value, mut len) = (0_i32, 4);
    // SAFETY: the kernel writes 4 bytes at most.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    assert_eq!(done, 0);
    value
}

#[test]
fn options_of_the_program_hold_on_the_peer_leg_and_later_ones_follow() {
    use libc::*;
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let agent = Agent::start();
    for (host, level, tos) in [("127.0.0.1", IPPROTO_IP, IP_TOS), ("::1", IPPROTO_IPV6, IPV6_TCLASS)] {
        let server = Server::echo(host, &leaf);
        let script = r#"
host, port, name_, ca, level, tos = args
level, tos = int(level), int(tos)
SO, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
sock = tls(name_, ca, socket.AF_INET6 if ":" in host else socket.AF_INET)
for where, option, value in ((SO, 9, 1), (TCP, 4, 33), (TCP, 5, 7), (TCP, 6, 3), (TCP, 18, 5000), (level, tos, 0x10),
                             (SO, 36, 7), (SO, 12, 3), (SO, 7, 60000), (SO, 8, 50000)):
    sock.setsockopt(where, option, value)
sock.connect((host, int(port)))
out([sock.getsockopt(SO, 7), sock.getsockopt(SO, 8)]); wait()
sock.setsockopt(TCP, 4, 44)
sock.setsockopt(TCP, 1, 1)
sock.setsockopt(SO, 9, 0)
sock.setsockopt(level, tos, 0x08)
assert attempt(sock.setsockopt, TCP, 5, -1) == "EINVAL"
out("changed"); wait()
sock.setsockopt(TCP, 1, 0)
out("changed"); wait()
"#;
        let arguments = [host, &server.port(), NAME, &pki.ca(), &level.to_string(), &tos.to_string()];
        let mut app = App::start(&agent, script, &arguments);
        let buffers = app.said();
        let legs = peer_legs(&agent, server.addr);
        assert_eq!(legs.len(), 1);
        let get = |level, name| option(&legs[0], level, name);
        let found = [
            get(SOL_SOCKET, SO_KEEPALIVE),
            get(IPPROTO_TCP, TCP_KEEPIDLE),
            get(IPPROTO_TCP, TCP_KEEPINTVL),
            get(IPPROTO_TCP, TCP_KEEPCNT),
            get(IPPROTO_TCP, TCP_USER_TIMEOUT),
            get(level, tos),
            get(SOL_SOCKET, SO_MARK),
            get(SOL_SOCKET, SO_PRIORITY),
        ];
        assert_eq!(found, [1, 33, 7, 3, 5000, 0x10, 7, 3], "{host}");
        assert_eq!(json!([get(SOL_SOCKET, SO_SNDBUF), get(SOL_SOCKET, SO_RCVBUF)]), buffers);
        app.go();
        assert_eq!(app.said(), "changed");
        eventually("the changes follow", Duration::from_secs(5), || {
            let now = [get(IPPROTO_TCP, TCP_KEEPIDLE), get(SOL_SOCKET, SO_KEEPALIVE), get(level, tos)];
            now == [44, 0, 0x08]
        });
        assert_eq!((get(IPPROTO_TCP, TCP_KEEPINTVL), get(IPPROTO_TCP, TCP_NODELAY)), (7, 1));
        app.go();
        assert_eq!(app.said(), "changed");
        eventually("TCP_NODELAY follows", Duration::from_secs(5), || get(IPPROTO_TCP, TCP_NODELAY) == 0);
        app.go();
        app.finish();
    }
}

#[test]
fn options_that_the_program_leaves_alone_are_left_alone() {
    use libc::*;
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    let agent = Agent::start();
    let script = "sock = tls(args[1], args[2]); sock.connect(('127.0.0.1', int(args[0]))); out(1); wait()";
    let mut app = App::start(&agent, script, &[&server.port(), NAME, &pki.ca()]);
    app.said();
    let plain = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    plain.connect(&server.addr.into()).unwrap();
    let leg = &peer_legs(&agent, server.addr)[0];
    for (level, name) in [
        (SOL_SOCKET, SO_KEEPALIVE),
        (IPPROTO_TCP, TCP_KEEPIDLE),
        (IPPROTO_IP, IP_TOS),
        (SOL_SOCKET, SO_MARK),
        (SOL_SOCKET, SO_PRIORITY),
        (SOL_SOCKET, SO_SNDBUF),
    ] {
        assert_eq!(option(leg, level, name), option(&plain, level, name), "{level} {name}");
    }
    app.go();
    app.finish();
}

#[test]
fn bound_address_and_interface_are_those_of_the_peer_leg() {
    let pki = Pki::new();
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME])));
    let agent = Agent::start();
    // A namespace of the program's, and one of the server's behind a pair of interfaces.
    let script = r#"
import subprocess
name_, ca, chain, key = args
assert libc.unshare(0x40000000) == 0
def run(*words): subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
other = subprocess.Popen(["unshare", "-n", "sleep", "60"])
while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"): time.sleep(0.01)
there = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]
run("ip", "link", "set", "lo", "up")
run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", "netns", str(other.pid))
for addr in ("10.9.0.1/24", "10.9.0.3/24", "fe80::9:1/64"): run("ip", "addr", "add", addr, "dev", "d0", "nodad") if ":" in addr else run("ip", "addr", "add", addr, "dev", "d0")
run("ip", "link", "set", "d0", "up")
for addr in ("10.9.0.2/24", "fe80::9:2/64"): run(*there, "ip", "addr", "add", addr, "dev", "d1", *(["nodad"] if ":" in addr else []))
run(*there, "ip", "link", "set", "d1", "up")
servers = [subprocess.Popen([*there, "openssl", "s_server", "-quiet", "-rev", "-accept", where, "-cert", chain, "-key", key],
                            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for where in ("10.9.0.2:4433", "[fe80::9:2%d1]:4434")]
listening = lambda port: any(f":{port:04X} " in open(f"/proc/{other.pid}/net/{table}").read() for table in ("tcp", "tcp6"))
while not (listening(4433) and listening(4434)): time.sleep(0.05)
came = {}
try:
    bound = tls(name_, ca); bound.setsockopt(socket.SOL_SOCKET, 25, b"d0\0")
    came["interface"] = connect(bound, "10.9.0.2", 4433)["result"]
    bound.send(b"abc\n"); came["echo"] = bound.recv(10).decode(); came["names"] = [bound.getsockname()[0], bound.getpeername()[0]]; bound.close()
    source = tls(name_, ca); source.bind(("10.9.0.3", 0))
    came["address"] = [connect(source, "10.9.0.2", 4433)["result"], source.getsockname()[0]]; source.close()
    local = tls(name_, ca, socket.AF_INET6); local.setsockopt(socket.SOL_SOCKET, 25, b"d0\0")
    came["link-local"] = attempt(local.connect, ("fe80::9:2", 4434, 0, socket.if_nametoindex("d0")))
    wrong = tls(name_, ca); wrong.setsockopt(socket.SOL_SOCKET, 25, b"lo\0")
    came["other interface"] = connect(wrong, "10.9.0.2", 4433)["result"]
finally:
    for server in servers: server.kill()
    other.kill()
out(came)
"#;
    let came = python(&agent, script, &[NAME, &pki.ca(), &chain, &key]);
    assert_eq!(came["interface"], "ok", "{came}");
    assert_eq!(came["echo"], "cba\n");
    assert_eq!(came["names"], json!(["10.9.0.1", "10.9.0.2"]));
    assert_eq!(came["address"], json!(["ok", "10.9.0.3"]));
    assert_eq!(came["link-local"], "ok", "{came}");
    assert_ne!(came["other interface"], "ok");
}
