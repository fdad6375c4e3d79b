//! Protocols that begin in plaintext and ask for TLS in band: the agent asks the peer, so that the application need
//! not.
//!
//! Nothing that a peer says before TLS is believed but that TLS may begin: what it has sent too much is read as TLS,
//! and fails (CVE-2011-0411 was about clients that did not).

use std::io;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::policy::StartTls;

/// Longest line of a peer before TLS, in bytes, and most lines of one reply.
const LINE_BYTES: usize = 4096;

const LINES: usize = 100;

/// Asks a peer to begin TLS. Returns the bytes that the application is to receive first: the peer's greeting. The
/// caller sets the time limit.
///
/// An error's text says what the peer did instead.
pub(crate) async fn ask(protocol: StartTls, peer: &mut TcpStream) -> io::Result<Vec<u8>> {
    match protocol {
        StartTls::Postgres => {
            peer.write_all(&SSL_REQUEST).await?;
            match peer.read_u8().await? {
                b'S' => Ok(Vec::new()),
                b'N' => Err(refused("the server has no TLS")),
                _ => Err(refused("the server is no PostgreSQL, or a very old one")),
            }
        }
        StartTls::Smtp => {
            let greeting = reply(peer, b"220").await?;
            peer.write_all(b"EHLO localhost\r\n").await?;
            let offers = reply(peer, b"250").await?;
            let starttls =
                |line: &[u8]| line.get(4..).is_some_and(|word| word.trim_ascii().eq_ignore_ascii_case(b"STARTTLS"));
            if !offers.split(|byte| *byte == b'\n').any(starttls) {
                return Err(refused("the server does not offer STARTTLS"));
            }
            peer.write_all(b"STARTTLS\r\n").await?;
            reply(peer, b"220").await?;
            Ok(greeting)
        }
        StartTls::Imap => {
            let greeting = line(peer).await?;
            if !greeting.starts_with(b"* OK") {
                return Err(refused(&greeting));
            }
            peer.write_all(b"ssa STARTTLS\r\n").await?;
            for _ in 0..LINES {
                let answer = line(peer).await?;
                if answer.starts_with(b"ssa OK") {
                    // What the server can do is another thing now: the application has to ask.
                    return Ok(b"* OK ready\r\n".to_vec());
                }
                if !answer.starts_with(b"* ") {
                    return Err(refused(&answer));
                }
            }
            Err(refused("too many lines"))
        }
        StartTls::Pop3 => {
            let greeting = line(peer).await?;
            if !greeting.starts_with(b"+OK") {
                return Err(refused(&greeting));
            }
            peer.write_all(b"STLS\r\n").await?;
            let answer = line(peer).await?;
            if !answer.starts_with(b"+OK") {
                return Err(refused(&answer));
            }
            Ok(greeting)
        }
    }
}

/// Request of PostgreSQL for TLS (`SSLRequest`): length, and the number that asks for it.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Request of PostgreSQL for encryption by Kerberos (`GSSENCRequest`): length, and the number that asks for it.
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// Sends an application the peer's greeting, and refuses its requests for TLS: there is TLS already. Returns its first
/// bytes that the peer is to receive.
pub(crate) async fn settle(protocol: StartTls, app: &mut TcpStream, greeting: &[u8]) -> io::Result<Vec<u8>> {
    app.write_all(greeting).await?;
    if protocol != StartTls::Postgres {
        return Ok(Vec::new());
    }
    loop {
        let mut first = Vec::new();
        (&mut *app).take(SSL_REQUEST.len() as u64).read_to_end(&mut first).await?;
        if first != SSL_REQUEST && first != GSS_REQUEST {
            return Ok(first);
        }
        app.write_all(b"N").await?;
    }
}

/// Reads a reply of SMTP that begins with this code, with all its lines.
async fn reply(peer: &mut TcpStream, code: &[u8]) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    for _ in 0..LINES {
        let next = line(peer).await?;
        if !next.starts_with(code) {
            return Err(refused(&next));
        }
        let last = next.get(code.len()) != Some(&b'-');
        whole.extend_from_slice(&next);
        if last {
            return Ok(whole);
        }
    }
    Err(refused("too many lines"))
}

/// Reads one line with its end. Nothing after it is read.
async fn line(peer: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        if line.len() == LINE_BYTES {
            return Err(refused("a line without an end"));
        }
        line.push(peer.read_u8().await?);
    }
    Ok(line)
}

fn refused(reply: impl AsRef<[u8]>) -> io::Error {
    io::Error::other(format!("no STARTTLS: {}", String::from_utf8_lossy(reply.as_ref().trim_ascii())))
}
