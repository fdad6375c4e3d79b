//! Listeners whose agent is dead, or comes and goes: nobody gets in without a handshake.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use ssa_tests::{app::App, eventually, server::closed_port};

use crate::site::*;

#[test]
fn nobody_gets_in_without_a_handshake_in_ten_restarts() {
    let Site { mut agent, pki, chain, key } = site();
    let port = closed_port("127.0.0.1");
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let tried = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // From before `listen` on, from ports of its own choice: those that the agent uses among others.
        for first in [20_000_u16, 32_768] {
            let (stop, tried) = (&stop, &tried);
            scope.spawn(move || {
                let mut source = first;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    source = if source > 60_000 { first } else { source + 7 };
                    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                    socket.set_reuse_address(true).unwrap();
                    let from = SocketAddr::from(([127, 0, 0, 1], source));
                    if socket.bind(&from.into()).is_err() {
                        continue;
                    }
                    if socket.connect_timeout(&addr.into(), Duration::from_millis(30)).is_ok() {
                        let _gone = (&socket).write_all(b"plaintext\n");
                        tried.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
        let arguments = [chain.as_str(), key.as_str(), &port.to_string()];
        let mut app = App::start(&agent, "serve_restarts.py", &arguments);
        assert_eq!(app.said(), "listens");
        let connector = connector(&pki, |_builder| {});
        let mut served = 0;
        for turn in 0..10 {
            eventually("a client is served", Duration::from_secs(20), || {
                connect(&connector, addr, NAME).is_ok_and(|mut stream| {
                    stream.write_all(b"secret").is_ok() && stream.read_exact(&mut [0; 2]).is_ok()
                })
            });
            served += 1;
            if turn % 2 == 0 {
                agent.kill();
                std::thread::sleep(Duration::from_millis(100));
                agent.restart();
            } else {
                // The agent of before takes its listeners with it for a moment.
                agent.kill();
                agent.restart();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        app.go();
        let seen = app.said();
        let seen = seen.as_array().unwrap();
        assert!(seen.len() >= served, "{seen:?}");
        for one in seen {
            assert!(!one[2].as_str().unwrap().contains("plaintext"), "{one}");
            assert!(one[1].as_str().unwrap().starts_with("TLS_"), "{one}");
        }
    });
    assert!(tried.load(std::sync::atomic::Ordering::Relaxed) > 100, "the agent answers, and wants a handshake");
}

#[test]
fn listener_of_a_dead_agent_is_silent() {
    let Site { mut agent, chain, key, .. } = site();
    let script = r#"
chain, key = args
sock = listener(chain, key); sock.settimeout(2)
out(sock.getsockname()[1]); wait()
out(attempt(sock.accept))
"#;
    let mut app = App::start(&agent, script, &[&chain, &key]);
    let addr = addr(&app.said());
    agent.kill();
    app.go();
    let client = TcpStream::connect_timeout(&addr, Duration::from_secs(1));
    assert_eq!(client.unwrap_err().kind(), std::io::ErrorKind::TimedOut, "dropped, not refused");
    assert_eq!(app.said(), "timeout");
}
