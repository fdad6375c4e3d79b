//! Processes that put themselves in the agent's or the application's place.

use std::{io::Read as _, thread, time::Duration};

use ssa_tests::{
    agent::Agent,
    app::{App, python},
    eventually,
    pki::Pki,
};

use crate::canary::*;

#[test]
fn process_that_takes_the_virtual_address_gets_nothing() {
    let pki = Pki::new();
    let server = slow(&pki, Duration::from_millis(1200));
    let agent = Agent::start();
    // While the SYN is held, another process (outside the cgroup, as root even) binds the address
    // that the application connects to, listens there, and connects to the application's port: TCP's
    // simultaneous open would make the two a connection.
    let script = format!(
        "{SEND_CANARY}
sock = tls(host, ca)
sock.bind(('127.0.0.1', 0))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 2)
out(sock.getsockname()[1])
came = attempt(sock.connect, ('127.0.0.1', int(port)))
send_regardless(sock)
out([came, state(sock)])"
    );
    let mut app = App::start(&agent, &script, &arguments(&server.port(), &pki.ca()));
    let port = u16::try_from(app.said().as_u64().unwrap()).unwrap();
    let mut target = None;
    eventually("the SYN is held", Duration::from_secs(5), || {
        target = syn_sent_to(port);
        target.is_some()
    });
    let target = std::net::SocketAddr::from(target.unwrap());
    let attacker = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    attacker.set_reuse_address(true).unwrap();
    attacker.bind(&target.into()).unwrap();
    attacker.set_nonblocking(true).unwrap();
    let _in_progress = attacker.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into());
    thread::sleep(Duration::from_millis(2500));
    attacker.set_nonblocking(false).unwrap();
    attacker.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut stolen = Vec::new();
    let _nothing = (&attacker).take(4096).read_to_end(&mut stolen);
    assert!(stolen.is_empty(), "the attacker got {} bytes", stolen.len());
    drop(attacker);
    // Without the attacker in its way the connect may still succeed, with the real peer.
    let came = app.said_within(Duration::from_secs(60));
    assert!(came[0] != "ok" || came[1] == 2, "{came}");
}

/// Destination to which the socket at 127.0.0.1:`port` is connecting to, from /proc/net/tcp.
fn syn_sent_to(port: u16) -> Option<([u8; 4], u16)> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let local = words.get(1)?.split_once(':')?;
        if u16::from_str_radix(local.1, 16).ok()? != port || *words.get(3)? != "02" {
            return None;
        }
        let (addr, port) = words.get(2)?.split_once(':')?;
        let addr = u32::from_str_radix(addr, 16).ok()?.to_ne_bytes();
        Some((addr, u16::from_str_radix(port, 16).ok()?))
    })
}

#[test]
fn connection_that_was_not_resumed_is_not_taken() {
    let (pki, server) = echo();
    let agent = Agent::start();
    python(
        &agent,
        "port, name, ca = args\nconnect(tls(name, ca), '127.0.0.1', port)\nout(1)",
        &arguments(&server.port(), &pki.ca()),
    );
    // The virtual addresses are nobody's, and the agent's own listener resets strangers.
    assert!(std::net::TcpStream::connect("127.205.1.2:7").is_err());
    let listeners = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
    assert!(listeners > 0);
    let port = own_listener(&agent);
    // The reset may come before `connect` has returned.
    let end = std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut stranger| {
        stranger.set_read_timeout(Some(ssa_tests::long(Duration::from_secs(2))))?;
        stranger.read(&mut [0; 10])
    });
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// The port of the agent's listener on 127.0.0.1.
fn own_listener(agent: &Agent) -> u16 {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table
        .lines()
        .find_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let listens = *words.get(3)? == "0A" && inodes.iter().any(|inode| words.get(9) == Some(&inode.as_str()));
            let port = u16::from_str_radix(words.get(1)?.split_once(':')?.1, 16).ok()?;
            listens.then_some(port)
        })
        .expect("the agent listens")
}
