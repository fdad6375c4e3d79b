//! Clients of every kind: other TLS libraries, a thousand at once, slow, hostile, and gone before `accept`.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use ssa_tests::{
    app::{command, compile, programs, root},
    eventually, few,
    pki::Pki,
    server::closed_port,
};

use crate::site::*;

/// curl, s_client, gnutls-cli and Python's ssl, all of them verifying, over both families.
fn clients_are_served(port: u16, pki: &Pki) {
    let ca = pki.ca();
    for host in ["127.0.0.1", "::1"] {
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let request = r"printf 'GET / HTTP/1.0\r\n\r\n'; sleep 0.3";
        let said = s_client(request, &target, &ca, &format!("-verify_hostname {NAME} -verify_return_error -quiet"));
        assert!(said.contains("hello") || said.contains("GET /"), "s_client {host}: {said}");
        let mut gnutls = Command::new("sh");
        let line = format!(
            "({request}) | timeout 10 gnutls-cli --x509cafile {ca} --sni-hostname {NAME} --verify-hostname {NAME} \
             -p {port} {host}"
        );
        gnutls.args(["-c", &line]);
        let (_code, said) = run(gnutls);
        assert!(
            said.contains("The certificate is trusted") && (said.contains("hello") || said.contains("GET /")),
            "gnutls {host}: {said}"
        );
        let mut python = Command::new("python3");
        python.arg(programs().join("https_get.py")).args([host, &port.to_string(), NAME, &ca]);
        python.env("PYTHONDONTWRITEBYTECODE", "1");
        let (good, said) = run(python);
        assert!(good && (said.contains("HTTP/1.0 200") || said.contains("GET /")), "python {host}: {said}");
    }
}

#[test]
fn python_http_server_serves_all_clients_over_both_families() {
    let site = site();
    let port = closed_port("127.0.0.1");
    let script = root().join("examples/python/serve.py");
    let mut server = command(&site.agent, "python3");
    server.arg(script).args([&port.to_string(), &site.chain, &site.key]).stderr(Stdio::null());
    let _server = Running(server.spawn().unwrap());
    eventually("it listens", Duration::from_secs(10), || site.agent.log().contains("serving a listener"));
    for host in ["127.0.0.1", "[::1]"] {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--max-time",
            "10",
            "--cacert",
            &site.pki.ca(),
            "--connect-to",
            &format!("{NAME}:{port}:{host}:{port}"),
            &format!("https://{NAME}:{port}/"),
        ]);
        let (good, said) = run(curl);
        let expected = if host == "[::1]" { "hello ::1\n" } else { "hello ::ffff:127.0.0.1\n" };
        assert!(good && said == expected, "{host}: {said}");
    }
    clients_are_served(port, &site.pki);
}

#[test]
fn c_epoll_server_serves_all_clients_over_both_families() {
    let site = site();
    let port = closed_port("127.0.0.1");
    let executable = compile(
        site.pki.folder(),
        &root().join("examples/c/serve.c"),
        "gcc",
        &["-std=gnu99", "-Wall", "-Wextra", "-Werror"],
    );
    let mut server = command(&site.agent, executable);
    server.args([&port.to_string(), &site.chain, &site.key]);
    let _server = Running(server.spawn().unwrap());
    eventually("it listens", Duration::from_secs(10), || site.agent.log().contains("serving a listener"));
    clients_are_served(port, &site.pki);
}

#[test]
fn thousand_clients_are_served_beside_hostile_ones() {
    let site = site();
    let script = r#"
chain, key = args
sock = listener(chain, key, backlog=1024)
out(sock.getsockname()[1])
served = 0
sock.settimeout(60)
while served < 1000 // FEWER:
    conn, _ = sock.accept()
    try: conn.sendall(b"hello")
    except OSError: pass
    conn.close(); served += 1
out(served); wait()
"#;
    let mut app = site.start(script, &[]);
    let addr = addr(&app.said());
    let connector = connector(&site.pki, |_builder| {});
    drop(connect(&connector, addr, NAME).unwrap());
    let (descriptors, memory) = (site.agent.descriptors(), site.agent.memory_kib());
    // 200 that say nothing, half a hello, or HTTP.
    let mut slow: Vec<TcpStream> = (0..few(200)).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for (index, stream) in slow.iter_mut().enumerate() {
        let _gone = match index % 3 {
            0 => Ok(()),
            1 => stream.write_all(&[22, 3, 1, 2, 0, 1, 0]),
            _ => stream.write_all(b"GET / HTTP/1.1\r\n\r\n"),
        };
    }
    let served = std::sync::atomic::AtomicUsize::new(1);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while served.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < few(1000) {
                    let mut stream = connect(&connector, addr, NAME).unwrap();
                    let mut answer = [0; 5];
                    stream.read_exact(&mut answer).unwrap();
                    assert_eq!(&answer, b"hello");
                }
            });
        }
    });
    assert_eq!(app.said(), few(1000));
    drop(slow);
    eventually("descriptors return", Duration::from_secs(20), || site.agent.descriptors() <= descriptors + 4);
    for map in ["CONNECTIONS", "LEGS"] {
        eventually(&format!("{map} is empty"), Duration::from_secs(20), || site.agent.entries(map) == 0);
    }
    let grown = site.agent.memory_kib().saturating_sub(memory);
    assert!(grown < 40 << 10, "{grown} KiB");
    app.go();
    app.finish();
}

#[test]
fn clients_that_leave_before_accept_leave_nothing_behind() {
    let site = site();
    let script = r#"
chain, key = args
sock = listener(chain, key)
out(sock.getsockname()[1]); wait()
sock.close()
out("closed"); wait()
"#;
    let mut app = site.start(script, &[]);
    let addr = addr(&app.said());
    let connector = connector(&site.pki, |_builder| {});
    let mut kept = Vec::new();
    for turn in 0..40 {
        let stream = connect(&connector, addr, NAME).unwrap();
        if turn % 2 == 0 {
            kept.push(stream);
        }
    }
    app.go();
    assert_eq!(app.said(), "closed");
    for mut stream in kept {
        assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
    }
    for map in ["CONNECTIONS", "CONTEXTS", "LISTENING", "LEGS", "PATHS"] {
        eventually(&format!("{map} is empty"), Duration::from_secs(20), || site.agent.entries(map) == 0);
    }
    app.go();
    app.finish();
}
