//! TCP connection below TLS. Differs from a `TcpStream` in its end only.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A `TcpStream` whose `shutdown` does nothing: `close_notify` ends the agent's half of a TLS
/// connection, and a FIN after it would look to many servers like a client that has gone away, while
/// their answer is still to come.
///
/// It also remembers a FIN that OpenSSL has met, which it only does where `close_notify` did not come
/// first: the connection was cut. OpenSSL 3 reports that as an error of its own, unless its
/// configuration file says otherwise (`IgnoreUnexpectedEOF`).
pub(crate) struct PeerStream {
    tcp: TcpStream,
    cut: bool,
}

impl PeerStream {
    /// Wraps a connected socket.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { tcp: stream, cut: false }
    }

    /// TCP socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether the peer's TCP connection ended before TLS did.
    pub(crate) fn was_cut(&self) -> bool {
        self.cut
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let wanted = buf.remaining() > 0;
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(()))) && wanted && buf.filled().len() == before {
            self.cut = true;
        }
        read
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
