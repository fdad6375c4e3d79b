//! Options at other levels: what an application sets on its socket holds on the connection to the peer.

use std::{net::SocketAddr, os::fd::FromRawFd as _, time::Duration};

use serde_json::json;
use socket2::Socket;
use ssa_tests::{
    agent::Agent,
    app::{App, python},
    eventually,
    pki::{Leaf, Pki},
    server::{self, Server},
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
fn socket_options_hold_on_the_peer_leg_before_and_after_connect() {
    use libc::*;
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let agent = Agent::start();
    for (host, level, tos) in [("127.0.0.1", IPPROTO_IP, IP_TOS), ("::1", IPPROTO_IPV6, IPV6_TCLASS)] {
        let server = Server::echo(host, &leaf);
        let arguments = [host, &server.port(), NAME, &pki.ca(), &level.to_string(), &tos.to_string()];
        let mut app = App::start(&agent, "peer_leg_options.py", &arguments);
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
fn socket_options_that_are_not_set_are_left_alone() {
    use libc::*;
    let (pki, server) = server::echo_peer(NAME);
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
fn peer_leg_has_the_bound_address_and_interface() {
    let pki = Pki::new();
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME])));
    let agent = Agent::start();
    // A namespace of the application's, and one of the server's behind a pair of interfaces.
    let came = python(&agent, "peer_leg_address.py", &[NAME, &pki.ca(), &chain, &key]);
    assert_eq!(came["interface"], "ok", "{came}");
    assert_eq!(came["echo"], "cba\n");
    assert_eq!(came["names"], json!(["10.9.0.1", "10.9.0.2"]));
    assert_eq!(came["address"], json!(["ok", "10.9.0.3"]));
    assert_eq!(came["link-local"], "ok", "{came}");
    assert_ne!(came["other interface"], "ok");
}
