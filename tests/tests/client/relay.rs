//! Bytes both ways: all of them, in order, and every end as what it was.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::Duration,
};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::python,
    pki::{Leaf, Pki},
    server::{Server, context, context_with, count_then_answer, reset, truncate},
    slow_machine,
};

const NAME: &str = "peer.ssa.test";

fn peer(serve: impl Fn(openssl::ssl::SslStream<std::net::TcpStream>) + Send + Sync + 'static) -> (Agent, Pki, Server) {
    let pki = Pki::new();
    let server = Server::tls("127.0.0.1", context(&pki.leaf(Leaf::of(&[NAME]))), serve);
    (Agent::start(), pki, server)
}

fn run(script: &str, (agent, pki, server): &(Agent, Pki, Server)) -> serde_json::Value {
    let start = "port, host, ca = args\nsock = tls(host, ca)\nsock.connect(('127.0.0.1', int(port)))\n";
    python(agent, &format!("{start}{script}"), &[&server.port(), NAME, &pki.ca()])
}

/// 64 MiB each way at once; the server answers with the hash of what it got.
fn bulk(versions: openssl::ssl::SslVersion) {
    let bytes = if slow_machine() { 8 << 20 } else { 64 << 20 };
    let pki = Pki::new();
    let context = context_with(&pki.leaf(Leaf::of(&[NAME])), |acceptor| {
        acceptor.set_max_proto_version(Some(versions)).unwrap();
    });
    let server = Server::tls("127.0.0.1", context, move |mut stream| {
        // One thread can't read and write an SslStream at once: take turns, without blocking.
        stream.get_ref().set_nonblocking(true).unwrap();
        let mut hasher = openssl::sha::Sha256::new();
        let (mut read, mut sent) = (0, 0);
        let mut buffer = vec![0; 1 << 16];
        let pattern: Vec<u8> = (0..1 << 16).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 16) as u8).collect();
        while read < bytes || sent < bytes {
            let mut idle = true;
            if read < bytes
                && let Ok(count) = stream.ssl_read(&mut buffer)
            {
                hasher.update(&buffer[..count]);
                read += count;
                idle = false;
            }
            if sent < bytes {
                let at = sent % pattern.len();
                let end = pattern.len().min(at + bytes - sent);
                if let Ok(count) = stream.ssl_write(&pattern[at..end]) {
                    sent += count;
                    idle = false;
                }
            }
            if idle {
                thread::sleep(Duration::from_micros(200));
            }
        }
        stream.get_ref().set_nonblocking(false).unwrap();
        stream.write_all(&hasher.finish()).unwrap();
        let _gone = stream.shutdown();
    });
    let said = python(&Agent::start(), "bulk.py", &[&server.port(), NAME, &pki.ca()]);
    assert_eq!(said, json!([true, true]));
}

#[test]
fn sixty_four_mib_each_way_at_once_over_tls_1_3() {
    bulk(openssl::ssl::SslVersion::TLS1_3);
}

#[test]
fn sixty_four_mib_each_way_at_once_over_tls_1_2() {
    bulk(openssl::ssl::SslVersion::TLS1_2);
}

#[test]
fn half_close_reaches_the_peer_and_its_answer_comes_back() {
    let test = peer(count_then_answer);
    let script = r#"
sock.sendall(b"x" * 300000)
sock.shutdown(socket.SHUT_WR)
out(read_all(sock).decode())
"#;
    assert_eq!(run(script, &test), "300000 bytes");
}

#[test]
fn half_close_of_the_peer_leaves_the_other_way_open() {
    let got: ssa_tests::server::Shared<Vec<u8>> = Default::default();
    let kept = std::sync::Arc::clone(&got);
    let test = peer(move |mut stream| {
        stream.write_all(b"last words").unwrap();
        let _sent = stream.shutdown();
        // After close_notify OpenSSL still reads.
        let mut rest = Vec::new();
        let _end = stream.read_to_end(&mut rest);
        *kept.lock().unwrap() = rest;
    });
    let script = r#"
first = read_all(sock).decode()
closed = state(sock)
sock.sendall(b"y" * 100000)
sock.shutdown(socket.SHUT_WR)
time.sleep(0.2)
out([first, closed, number(sock, TLS_VERSION_CONN)])
"#;
    assert_eq!(run(script, &test), json!(["last words", 5, 0x0304]));
    ssa_tests::eventually("the rest has arrived", Duration::from_secs(5), || got.lock().unwrap().len() == 100_000);
}

#[test]
fn close_delivers_what_was_sent_before() {
    let got: ssa_tests::server::Shared<Option<(usize, bool)>> = Default::default();
    let kept = std::sync::Arc::clone(&got);
    let test = peer(move |mut stream| {
        let mut total = 0;
        let mut buffer = [0; 16384];
        let ended = loop {
            match stream.ssl_read(&mut buffer) {
                Ok(read) => total += read,
                Err(error) => break error.code() == openssl::ssl::ErrorCode::ZERO_RETURN,
            }
        };
        *kept.lock().unwrap() = Some((total, ended));
    });
    run("sock.sendall(b'z' * 5000000)\nsock.close()\nout(1)", &test);
    ssa_tests::eventually("the peer has read to the end", Duration::from_secs(10), || got.lock().unwrap().is_some());
    assert_eq!(*got.lock().unwrap(), Some((5_000_000, true)), "all bytes, then close_notify");
}

#[test]
fn close_right_after_connect_loses_nothing() {
    let got: ssa_tests::server::Shared<Vec<usize>> = Default::default();
    let kept = std::sync::Arc::clone(&got);
    let test = peer(move |mut stream| {
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        kept.lock().unwrap().push(if read.is_ok() { rest.len() } else { usize::MAX });
    });
    let script = r#"
sock.close()
for turn in range(200):
    quick = tls(host, ca)
    quick.connect(("127.0.0.1", int(port)))
    quick.sendall(b"a" * 1000)
    quick.close()
out(1)
"#;
    run(script, &test);
    ssa_tests::eventually("all have ended", Duration::from_secs(10), || got.lock().unwrap().len() == 201);
    let lens = got.lock().unwrap().clone();
    assert_eq!(lens.iter().filter(|len| **len == 1000).count(), 200, "{lens:?}");
}

#[test]
fn reset_in_mid_stream_is_a_reset() {
    let test = peer(|mut stream| {
        stream.write_all(b"some").unwrap();
        thread::sleep(Duration::from_millis(100));
        reset(stream.get_ref());
    });
    let script = r#"
first = sock.recv(100).decode()
out([first, attempt(sock.recv, 100), state(sock), error(sock).split(":")[0]])
"#;
    let text = "the peer reset the connection, or broke TLS";
    assert_eq!(run(script, &test), json!(["some", "ECONNRESET", 5, text]));
}

#[test]
fn fin_without_close_notify_is_a_reset_never_an_end_of_file() {
    let test = peer(|mut stream| {
        thread::sleep(Duration::from_millis(100));
        stream.write_all(&[b'd'; 200_000]).unwrap();
        truncate(&stream);
        thread::sleep(Duration::from_secs(1));
    });
    let script = r#"
got, end = 0, None
while end is None:
    try:
        part = sock.recv(65536)
        got += len(part)
        if not part: end = "EOF"
    except OSError as failed:
        end = errno.errorcode[failed.errno]
out([got, end])
"#;
    assert_eq!(run(script, &test), json!([200_000, "ECONNRESET"]), "what was sent before still arrives");
}

#[test]
fn garbage_in_mid_stream_is_a_reset() {
    let test = peer(|mut stream| {
        stream.write_all(b"good").unwrap();
        // As with plain TCP, a reset that comes before connect(2) has woken up is connect's.
        thread::sleep(Duration::from_millis(100));
        let mut tcp = stream.get_ref().try_clone().unwrap();
        tcp.write_all(&[0x17, 0x03, 0x03, 0x00, 0x20]).unwrap();
        tcp.write_all(&[0xaa; 32]).unwrap();
        thread::sleep(Duration::from_secs(1));
    });
    let script = r#"
first = sock.recv(100).decode()
out([first, attempt(sock.recv, 100)])
"#;
    assert_eq!(run(script, &test), json!(["good", "ECONNRESET"]));
}

#[test]
fn reset_by_the_application_resets_the_peer() {
    let got: ssa_tests::server::Shared<Option<bool>> = Default::default();
    let kept = std::sync::Arc::clone(&got);
    let test = peer(move |mut stream| {
        let mut buffer = [0; 100];
        let error = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error),
            }
        };
        *kept.lock().unwrap() = Some(error.is_some());
    });
    let script = r#"
sock.sendall(b"x")
sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
time.sleep(0.05)
sock.close()
out(1)
"#;
    run(script, &test);
    ssa_tests::eventually("the peer has seen the end", Duration::from_secs(5), || got.lock().unwrap().is_some());
    assert_eq!(*got.lock().unwrap(), Some(true), "an error, not an end of file");
}

#[test]
fn slow_reader_holds_the_writer_back() {
    let test = peer(|mut stream| {
        let block = [b'b'; 65536];
        for _block in 0..512 {
            if stream.write_all(&block).is_err() {
                return;
            }
        }
        let _sent = stream.shutdown();
    });
    // What the first connection costs once is none of our business here.
    run("out(sock.recv(100)[:1].decode())", &test);
    let before = test.0.memory_kib();
    let script = "time.sleep(1.5)\ngot = len(read_all(sock))\nout(got)";
    let agent = &test.0;
    let came = thread::scope(|scope| {
        let reader = scope.spawn(|| run(script, &test));
        thread::sleep(Duration::from_millis(1200));
        let grown = agent.memory_kib().saturating_sub(before);
        assert!(grown < 8 << 10, "32 MiB wait, but the agent may not hold them: it grew by {grown} KiB");
        reader.join().unwrap()
    });
    assert_eq!(came, 512 * 65536);
}

#[test]
fn urgent_byte_stays_in_the_stream() {
    let test = peer(ssa_tests::server::echo);
    let script = r#"
sock.sendall(b"ab")
sock.send(b"c", socket.MSG_OOB)
sock.sendall(b"de")
got = b""
while len(got) < 5: got += sock.recv(10)
out(got.decode())
"#;
    assert_eq!(run(script, &test), "abcde");
}
