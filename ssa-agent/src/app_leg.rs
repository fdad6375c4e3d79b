//! The application leg. Differs from a `TcpStream` in what it does at an urgent byte.

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
    /// Nothing was read yet, and TLS may not be: the agent speaks it.
    tls_is_wrong: bool,
}

/// A program under a rule has sent a ClientHello, which would go through the agent's TLS.
#[derive(Debug, thiserror::Error)]
#[error("it speaks TLS itself: leave it alone by a rule with mode = \"plain\", or make it speak plaintext")]
pub(crate) struct OwnTls;

impl AppStream {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, short: false, tls_is_wrong: false }
    }

    /// Of a program that a rule gives TLS: its first bytes must be no ClientHello, or reading fails with [`OwnTls`].
    pub(crate) fn without_tls(tcp: TcpStream) -> Self {
        Self { tcp, short: false, tls_is_wrong: true }
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

/// A record of the handshake with a ClientHello in it (RFC 8446, sections 5.1 and 4).
fn is_client_hello(bytes: &[u8]) -> bool {
    matches!(bytes, [22, 3, 0..=4, _, _, 1, ..])
}

impl AsyncRead for AppStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.short {
            match self.read_rest(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.short = false,
                done => return Poll::Ready(done),
            }
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        if self.tls_is_wrong && buf.filled().len() > before {
            self.tls_is_wrong = false;
            if is_client_hello(&buf.filled()[before..]) {
                return Poll::Ready(Err(io::Error::other(OwnTls)));
            }
        }
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
