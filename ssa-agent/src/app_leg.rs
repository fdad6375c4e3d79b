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
}

impl AppStream {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, short: false }
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

impl AsyncRead for AppStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
