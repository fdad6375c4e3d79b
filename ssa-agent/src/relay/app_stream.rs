//! The application leg. Differs from a `TcpStream` in what it does at an urgent byte, and in what it lets pass.

use std::{
    io,
    os::fd::AsRawFd as _,
    pin::Pin,
    task::{Context, Poll},
};

use nix::sys::socket::{MsgFlags, recv};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A `TcpStream` that reads on after a short read.
///
/// The kernel ends a read before an urgent byte (`MSG_OOB`), though more may be there; tokio takes a
/// short read for an empty socket, and would wait for news that never come.
pub(crate) struct AppStream {
    tcp: TcpStream,
    /// The last read was short: the socket may not be empty.
    short: bool,
    says: Says,
}

/// What a program may say.
enum Says {
    Anything,
    /// Nothing was read yet, and TLS may not be: the agent speaks it.
    NoHello,
    /// Records of TLS: the agent passes them on as they are.
    Records(Records),
}

/// A program under a rule says what the rule is not for. Reading fails with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unserved {
    /// A ClientHello would go through the agent's TLS.
    #[error(
        "it speaks TLS itself: let it by `own_tls = \"pass\"` of the rule, leave it alone by a rule with \
         mode = \"plain\", or make it speak plaintext"
    )]
    OwnTls,
    /// Plaintext would go out.
    #[error("it began with TLS of its own, and goes on with something else")]
    NotTls,
}

impl AppStream {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, short: false, says: Says::Anything }
    }

    /// Of a program that a rule gives TLS: its first bytes must be no ClientHello.
    pub(crate) fn without_tls(tcp: TcpStream) -> Self {
        Self { tcp, short: false, says: Says::NoHello }
    }

    /// Of a program that speaks TLS itself, and must say nothing else.
    pub(crate) fn of_tls(tcp: TcpStream) -> Self {
        Self { tcp, short: false, says: Says::Records(Records::default()) }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Reads at most one chunk of what is there; `WouldBlock` if nothing is.
    fn read_rest(&self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        const CHUNK_BYTES: usize = 4096;
        let mut chunk = [0; CHUNK_BYTES];
        let room = CHUNK_BYTES.min(buf.remaining());
        let read = recv(self.tcp.as_raw_fd(), &mut chunk[..room], MsgFlags::MSG_DONTWAIT)?;
        buf.put_slice(&chunk[..read]);
        Ok(())
    }
}

/// Bytes by which a ClientHello is known.
pub(crate) const HELLO_BYTES: usize = 6;

/// Whether this is, or can still become, a record of the handshake with a ClientHello in it (RFC 8446, sections 5.1 and 4).
pub(crate) fn may_be_hello(bytes: &[u8]) -> bool {
    let fits = |(at, byte): (usize, &u8)| match at {
        0 => *byte == HANDSHAKE,
        1 => *byte == 3,
        2 => *byte <= 4,
        5 => *byte == 1,
        _ => true,
    };
    bytes.iter().take(HELLO_BYTES).enumerate().all(fits)
}

fn is_client_hello(bytes: &[u8]) -> bool {
    bytes.len() >= HELLO_BYTES && may_be_hello(bytes)
}

/// Type of the records that a handshake is in.
const HANDSHAKE: u8 = 22;
/// Bytes before a record's fragment: type, version, length (RFC 8446, section 5.1).
const HEADER_BYTES: usize = 5;
/// Longest fragment that any version allows (RFC 5246, section 6.2.3).
const FRAGMENT_BYTES: usize = (1 << 14) + 2048;

/// Where in a row of records a stream is.
#[derive(Default)]
struct Records {
    /// The header that has begun, and how much of it is there.
    header: [u8; HEADER_BYTES],
    filled: usize,
    /// What is left of the fragment.
    fragment: usize,
}

impl Records {
    /// Whether a stream that goes on with these bytes is still a row of records.
    fn go_on(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            if self.fragment > 0 {
                let skipped = self.fragment.min(bytes.len());
                self.fragment -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.header[self.filled] = *first;
            self.filled += 1;
            bytes = rest;
            if self.filled == HEADER_BYTES {
                self.filled = 0;
                let [kind, major, minor, high, low] = self.header;
                self.fragment = usize::from(u16::from_be_bytes([high, low]));
                // change_cipher_spec, alert, handshake, application_data.
                if !(20..=23).contains(&kind) || major != 3 || minor > 4 || self.fragment > FRAGMENT_BYTES {
                    return false;
                }
            }
        }
        true
    }
}

/// For fuzzers: however a stream is cut, it is a row of records or not.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let whole = Records::default().go_on(bytes);
    let mut one_by_one = Records::default();
    let all = bytes.iter().all(|byte| one_by_one.go_on(&[*byte]));
    assert_eq!(whole, all);
    assert!(!is_client_hello(bytes) || may_be_hello(bytes));
}

impl Says {
    /// Checks what was read.
    fn check(&mut self, bytes: &[u8]) -> Result<(), Unserved> {
        match self {
            Self::Anything => Ok(()),
            Self::NoHello if bytes.is_empty() => Ok(()),
            Self::NoHello => {
                *self = Self::Anything;
                if is_client_hello(bytes) { Err(Unserved::OwnTls) } else { Ok(()) }
            }
            Self::Records(records) => records.go_on(bytes).then_some(()).ok_or(Unserved::NotTls),
        }
    }
}

impl AsyncRead for AppStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.as_mut().poll_read_on(cx, buf);
        match self.says.check(&buf.filled()[before..]) {
            Ok(()) => read,
            Err(unserved) => Poll::Ready(Err(io::Error::other(unserved))),
        }
    }
}

impl AppStream {
    fn poll_read_on(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.short {
            match self.read_rest(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.short = false,
                done => return Poll::Ready(done),
            }
        }
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        self.short = matches!(read, Poll::Ready(Ok(()))) && buf.remaining() > 0 && !buf.filled().is_empty();
        read
    }
}

impl AsyncWrite for AppStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_is_known_by_its_first_bytes() {
        let hello = [22, 3, 1, 2, 0, 1, 0, 1];
        assert!((0..=hello.len()).all(|len| may_be_hello(&hello[..len])));
        assert!(is_client_hello(&hello) && !is_client_hello(&hello[..5]));
        assert!(!may_be_hello(b"GET / HTTP/1.1") && !may_be_hello(&[22, 3, 3, 0, 40, 2]));
    }

    #[test]
    fn row_of_records_is_one_however_it_is_cut() {
        let mut row = Vec::new();
        for (kind, len) in [(22, 512_u16), (20, 1), (23, 0), (23, 16640), (21, 2)] {
            row.extend([kind, 3, 3]);
            row.extend(len.to_be_bytes());
            row.resize(row.len() + usize::from(len), b'G');
        }
        for piece in [1, 2, 5, 7, 1000, row.len()] {
            let mut records = Records::default();
            assert!(row.chunks(piece).all(|bytes| records.go_on(bytes)), "{piece}");
            assert!(!records.go_on(b"GET / HTTP/1.1"), "{piece}");
        }
        assert!(!Records::default().go_on(&[23, 3, 3, 0xff, 0xff]));
    }
}
