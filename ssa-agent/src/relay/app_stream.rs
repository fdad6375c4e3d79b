//! Application leg. Differs from a `TcpStream` in what it does at an urgent byte, and in what it lets pass.

use nix::sys::socket::{MsgFlags, recv};
use std::{
    io,
    os::fd::AsRawFd as _,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::tls::{Records, is_client_hello};

/// `TcpStream` that reads on after a short read.
///
/// The kernel ends a read before an urgent byte (`MSG_OOB`), though more may be there; tokio takes a short read for an
/// empty socket, and would wait for news that never come.
pub(crate) struct AppStream {
    tcp: TcpStream,
    /// Whether the last read was short: the socket may not be empty.
    short: bool,
    inspection: Inspection,
}

/// Bytes that an application may send.
enum Inspection {
    Anything,
    /// Anything but a ClientHello at first, as the agent speaks TLS; nothing was read yet.
    PlaintextFirst,
    /// TLS records, which the agent passes on as they are.
    Records(Records),
}

/// Error of a read: an application under a rule sends what the rule is not for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolMismatch {
    /// The application speaks TLS itself: its ClientHello would go through the agent's TLS.
    #[error(
        "it speaks TLS itself: let it by `app_tls = \"passthrough\"` of the rule, leave it alone by a rule with \
         mode = \"plain\", or make it speak plaintext"
    )]
    ClientHello,
    /// The application began with TLS, and goes on with plaintext, which would go out.
    #[error("it began with TLS of its own, and goes on with something else")]
    NotTls,
}

impl AppStream {
    /// Makes the leg of an application that may send anything.
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, short: false, inspection: Inspection::Anything }
    }

    /// Makes the leg of an application that a rule gives TLS: its first bytes must be no ClientHello.
    pub(crate) fn plaintext_first(tcp: TcpStream) -> Self {
        Self { tcp, short: false, inspection: Inspection::PlaintextFirst }
    }

    /// Makes the leg of an application that speaks TLS itself, and must send nothing else.
    pub(crate) fn tls_records(tcp: TcpStream) -> Self {
        Self { tcp, short: false, inspection: Inspection::Records(Records::default()) }
    }

    /// Connection itself.
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

impl Inspection {
    /// Checks the bytes that were read.
    fn check(&mut self, bytes: &[u8]) -> Result<(), ProtocolMismatch> {
        match self {
            Self::Anything => Ok(()),
            Self::PlaintextFirst if bytes.is_empty() => Ok(()),
            Self::PlaintextFirst => {
                *self = Self::Anything;
                if is_client_hello(bytes) { Err(ProtocolMismatch::ClientHello) } else { Ok(()) }
            }
            Self::Records(records) => records.feed(bytes).then_some(()).ok_or(ProtocolMismatch::NotTls),
        }
    }
}

impl AsyncRead for AppStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.as_mut().poll_read_on(cx, buf);
        match self.inspection.check(&buf.filled()[before..]) {
            Ok(()) => read,
            Err(mismatch) => Poll::Ready(Err(io::Error::other(mismatch))),
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
