//! TLS that is preferred, or asked for in the peer's protocol (STARTTLS).

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{App, python},
    config::Config,
    eventually,
    pki::{Leaf, Pki},
    server::{self, Server, closed_port},
};

use crate::fixture::*;

/// Speaks SMTP, IMAP or POP3 until TLS begins, and a line more.
fn mail_server(pki: &Pki, script: &'static [(&'static str, &'static str)], eager: bool) -> Server {
    let context = server::context(&pki.leaf(Leaf::of(&[NAME])));
    Server::tcp("127.0.0.1", move |mut stream| {
        for (expected, answer) in script {
            let mut line = Vec::new();
            while !expected.is_empty() && line.last() != Some(&b'\n') {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    return;
                }
                line.push(byte[0]);
            }
            assert_eq!(String::from_utf8_lossy(&line).trim_end(), *expected);
            let _gone = stream.write_all(answer.as_bytes());
        }
        if eager {
            let _gone = stream.write_all(b"250 injected\r\n");
        }
        let Some(mut stream) = server::handshake(&context, stream) else { return };
        let mut said = [0; 100];
        let read = stream.read(&mut said).unwrap_or(0);
        let _gone = stream.write_all(&said[..read]);
        let _gone = stream.shutdown();
    })
}

#[test]
fn prefer_rule_falls_back_to_plaintext_and_says_so() {
    let (pki, tls) = echo();
    let wrong = server::context(&pki.leaf(Leaf::of(&["other.ssa.test"])));
    let wrong = Server::tls("127.0.0.1", wrong, server::echo);
    let plain = Server::tcp("127.0.0.1", |mut stream| {
        let mut buffer = [0; 100];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            // A ClientHello comes first, on a connection of its own.
            let hello = buffer[0] == 22;
            let answer = if hello { b"-ERR what?\r\n" } else { &buffer[..read] };
            if stream.write_all(answer).is_err() || hello {
                return;
            }
        }
    });
    let greets = Server::tcp("127.0.0.1", |mut stream| {
        let _gone = stream.write_all(b"220 hello\r\n");
        let _gone = stream.read(&mut [0; 2000]);
    });
    let rule = |port: u16| out_by(&port.to_string(), port, &pki).set("mode", "prefer");
    let servers = [&tls, &wrong, &plain, &greets];
    let agent = Agent::start_with(servers.iter().map(|server| rule(server.addr.port())).collect::<Config>());
    eventually("the log says so loudly", Duration::from_secs(5), || {
        agent.log().contains("plaintext is sent to whoever speaks no TLS")
    });
    let script = format!("{TALK}\nout([talk(port) for port in args])");
    let said = python(&agent, &script, &servers.map(Server::port).each_ref().map(String::as_str));
    let heard = json!(["canary-in-plain-sight", true]);
    assert_eq!(said, json!([heard, "EPROTO", heard, ["220 hello\r\n", true]]));
    eventually("the log says so of both", Duration::from_secs(5), || {
        agent.log().matches("plaintext: the peer speaks no TLS").count() == 2
    });
}

#[test]
fn prefer_rule_serves_tls_and_plaintext_clients() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let agent = Agent::start_with(served(port, &pki).set("mode", "prefer"));
    let mut app = App::start(&agent, SERVE, &["127.0.0.1", &port.to_string()]);
    assert_eq!(app.said(), json!("ready"));
    let good = || https(NAME, port, &pki).status.success();
    eventually("it is served", Duration::from_secs(10), good);
    let plain = curl(&["--local-port", "20000-30000", &format!("http://127.0.0.1:{port}/")]);
    let came: serde_json::Value = serde_json::from_str(&text(&plain)).unwrap();
    assert!((20000..=30000).contains(&came[1].as_u64().unwrap()), "{came}");
    eventually("the log says so", Duration::from_secs(5), || {
        agent.log().contains("plaintext: the client speaks no TLS")
    });
}

#[test]
fn starttls_rule_secures_mail_and_passes_the_greeting_on() {
    let pki = Pki::new();
    const SMTP: &[(&str, &str)] = &[
        ("", "220-mail.test\r\n220 ESMTP\r\n"),
        ("EHLO localhost", "250-mail.test\r\n250-SIZE 1000\r\n250 STARTTLS\r\n"),
        ("STARTTLS", "220 go on\r\n"),
    ];
    const IMAP: &[(&str, &str)] =
        &[("", "* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hi\r\n"), ("ssa STARTTLS", "* note\r\nssa OK go on\r\n")];
    const POP3: &[(&str, &str)] = &[("", "+OK hi\r\n"), ("STLS", "+OK go on\r\n")];
    const WITHOUT: &[(&str, &str)] = &[("", "220 hi\r\n"), ("EHLO localhost", "250-mail.test\r\n250 SIZE 1000\r\n")];
    let script = r#"
said = []
for port in args:
    sock = socket.socket()
    sock.settimeout(20)
    try:
        sock.connect(("127.0.0.1", int(port)))
        lines = sock.makefile("rb")
        greeting = lines.readline()
        if greeting.startswith(b"220-"): greeting += lines.readline()
        sock.sendall(b"QUIT\r\n")
        said.append([greeting.decode(), lines.readline().decode()])
    except OSError as error:
        said.append(errno.errorcode[error.errno])
out(said)
"#;
    let servers = [
        (mail_server(&pki, SMTP, false), "smtp"),
        (mail_server(&pki, IMAP, false), "imap"),
        (mail_server(&pki, POP3, false), "pop3"),
        (mail_server(&pki, SMTP, true), "smtp"),
        (mail_server(&pki, WITHOUT, false), "smtp"),
    ];
    let rules: Config = servers
        .iter()
        .map(|(server, protocol)| {
            let port = server.addr.port();
            out_by(&port.to_string(), port, &pki).set("starttls", *protocol)
        })
        .collect();
    let agent = Agent::start_with(rules);
    let ports: Vec<String> = servers.iter().map(|(server, _protocol)| server.port()).collect();
    let said = python(&agent, script, &ports.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(
        said,
        json!([
            ["220-mail.test\r\n220 ESMTP\r\n", "QUIT\r\n"],
            ["* OK ready\r\n", "QUIT\r\n"],
            ["+OK hi\r\n", "QUIT\r\n"],
            "EPROTO",
            "EPROTO",
        ])
    );
}
