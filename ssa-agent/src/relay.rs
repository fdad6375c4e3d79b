//! Bytes both ways between an application leg and its peer leg.
//!
//! Either side's end of file is passed on as what it is: a FIN as `close_notify`, a `close_notify`
//! as a FIN. Anything else that ends a side - a reset, a FIN without `close_notify`, a broken record -
//! resets the other: an end of file that nobody sent must never arrive.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut as _, BytesMut};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_openssl::SslStream;
use tokio_util::io::poll_read_buf;

use crate::{
    app_leg::{AppStream, Unserved},
    sockopt,
    tls::peer::PeerStream,
};

/// Bytes that went through so far, by direction.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// From the application to the peer.
    pub(crate) up: AtomicU64,
    /// From the peer to the application.
    pub(crate) down: AtomicU64,
}

impl Copied {
    /// Up, and down.
    pub(crate) fn both(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// Why a relay ended in resets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the application reset the connection")]
    Application(#[source] io::Error),
    #[error("the peer reset the connection, or broke TLS")]
    Peer(#[source] io::Error),
    #[error("nothing was sent for {} s, which is the limit (`idle_seconds` of [time])", .0.as_secs())]
    Idle(Duration),
    #[error("the program is not served by its rule")]
    Unserved(#[source] Unserved),
}

/// Relays until both sides have ended, or one was reset.
///
/// `news` may do something to the peer leg, and is ready when the application has closed its socket for
/// good: then nobody is left to read what the peer still sends. `before_reset` is told why before the
/// other side is reset. After `idle`, if it is not zero, without a byte either way it ends. Both legs are reset on an error and on cancellation, because they come with a
/// linger time of zero.
pub(crate) async fn run(
    mut app: AppStream,
    mut peer: impl Peer,
    mut news: impl FnMut(&mut Context<'_>, &TcpStream) -> Poll<()>,
    before_reset: impl FnOnce(&Error),
    copied: &Copied,
    idle: Duration,
) -> Result<(), Error> {
    let mut up = Pipe::new(&copied.up);
    let mut down = Pipe::new(&copied.down);
    let mut gone = false;
    let both = poll_fn(|cx| {
        let sent = up.poll(cx, Pin::new(&mut app), Pin::new(&mut peer)).map_err(Error::from_up)?;
        let received = down.poll(cx, Pin::new(&mut peer), Pin::new(&mut app)).map_err(Error::from_down)?;
        gone = gone || news(cx, peer.tcp()).is_ready();
        match (sent, received) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            (Poll::Ready(()), Poll::Pending) if gone => Poll::Ready(Ok(())),
            (Poll::Ready(()) | Poll::Pending, Poll::Pending) | (Poll::Pending, Poll::Ready(())) => Poll::Pending,
        }
    });
    let ended = tokio::select! {
        biased;
        ended = both => ended,
        () = idled(copied, idle) => Err(Error::Idle(idle)),
    };
    match ended {
        Ok(()) => {
            close(app, peer).await;
            Ok(())
        }
        Err(error) => {
            before_reset(&error);
            if matches!(error, Error::Peer(_)) {
                // What the peer sent before still arrives, then the reset.
                drained(app.tcp()).await;
            }
            Err(error)
        }
    }
}

/// Completes when nothing was relayed for so long; never for zero.
async fn idled(copied: &Copied, limit: Duration) {
    /// Looks for each span, so that it is late by one at most.
    const LOOKS: u32 = 8;
    if limit.is_zero() {
        return std::future::pending().await;
    }
    let (mut last, mut same) = (copied.both(), 0);
    while same < LOOKS {
        sleep(limit / LOOKS).await;
        let now = copied.both();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
}

impl Error {
    fn from_up(failed: Failed) -> Self {
        match failed {
            Failed::Read(error) => error.downcast().map_or_else(Self::Application, Self::Unserved),
            Failed::Write(error) => Self::Peer(error),
        }
    }

    fn from_down(failed: Failed) -> Self {
        match failed {
            Failed::Read(error) => Self::Peer(error),
            Failed::Write(error) => Self::Application(error),
        }
    }
}

/// Ends both legs in order: all that was written arrives, then the FIN.
async fn close(app: AppStream, mut peer: impl Peer) {
    // Both are open sockets, for which this can't fail.
    let _set = SockRef::from(app.tcp()).set_linger(None);
    drop(app);
    let tcp = SockRef::from(peer.tcp());
    let _set = tcp.set_linger(None);
    let _gone = tcp.shutdown(std::net::Shutdown::Write);
    // Closing with unread data would reset the connection and might destroy what the peer has not
    // read yet.
    let mut waste = [0; 4096];
    let _late = timeout(LINGER, async { while matches!(peer.read(&mut waste).await, Ok(1..)) {} }).await;
}

/// Waits until the application's side has taken all that was written to it, for a while.
async fn drained(app: &TcpStream) {
    let empty = async {
        while sockopt::unacknowledged(app).is_ok_and(|bytes| bytes > 0) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let _late = timeout(LINGER, empty).await;
}

/// How long a closed connection is waited for.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes of a direction's buffer: four TLS records of the longest kind.
const BUFFER_BYTES: usize = 64 * 1024;

/// Which side of a pipe failed.
enum Failed {
    Read(io::Error),
    Write(io::Error),
}

/// One direction. Has a buffer only while there is something in it.
struct Pipe<'a> {
    buffer: BytesMut,
    /// Bytes of the buffer that were written already.
    written: usize,
    /// The reading side's end, once it was seen.
    end: Option<End>,
    copied: &'a AtomicU64,
}

enum End {
    File,
    Error(io::Error),
    /// Passed on.
    Done,
}

impl<'a> Pipe<'a> {
    fn new(copied: &'a AtomicU64) -> Self {
        Self { buffer: BytesMut::new(), written: 0, end: None, copied }
    }

    fn poll<R: Source, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
    ) -> Poll<Result<(), Failed>> {
        loop {
            if self.end.is_none() {
                self.fill(cx, from.as_mut());
            }
            while self.written < self.buffer.len() {
                let rest = &self.buffer[self.written..];
                let written = ready!(to.as_mut().poll_write(cx, rest)).map_err(Failed::Write)?;
                if written == 0 {
                    return Poll::Ready(Err(Failed::Write(io::ErrorKind::WriteZero.into())));
                }
                self.written += written;
                self.copied.fetch_add(written as u64, Ordering::Relaxed);
            }
            let moved = !self.buffer.is_empty();
            self.written = 0;
            self.buffer = BytesMut::new();
            match self.end.take() {
                None if moved => continue,
                None => return Poll::Pending,
                Some(End::Error(error)) => return Poll::Ready(Err(Failed::Read(error))),
                Some(End::File) => {
                    // Put back: shutting down may have to wait.
                    self.end = Some(End::File);
                    ready!(to.poll_shutdown(cx)).map_err(Failed::Write)?;
                    self.end = Some(End::Done);
                    return Poll::Ready(Ok(()));
                }
                Some(End::Done) => {
                    self.end = Some(End::Done);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Reads until the buffer is full or nothing is there. Pending leaves a waker behind.
    fn fill<R: Source>(&mut self, cx: &mut Context<'_>, mut from: Pin<&mut R>) {
        while self.buffer.len() < BUFFER_BYTES {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve(BUFFER_BYTES);
            }
            let left = BUFFER_BYTES - self.buffer.len();
            let mut room = (&mut self.buffer).limit(left);
            match poll_read_buf(from.as_mut(), cx, &mut room) {
                Poll::Pending => return,
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) if from.ended_in_order() => {
                    self.end = Some(End::File);
                    return;
                }
                Poll::Ready(Ok(0)) => {
                    self.end = Some(End::Error(io::ErrorKind::UnexpectedEof.into()));
                    return;
                }
                Poll::Ready(Err(error)) => {
                    self.end = Some(End::Error(error));
                    return;
                }
            }
        }
    }
}

/// What a pipe reads from.
pub(crate) trait Source: AsyncRead {
    /// Whether an end of file was sent by the other side, not made by somebody who cut the line.
    fn ended_in_order(&self) -> bool;
}

/// The other side of an application.
pub(crate) trait Peer: Source + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Peer for SslStream<PeerStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().tcp()
    }
}

impl Peer for AppStream {
    fn tcp(&self) -> &TcpStream {
        self.tcp()
    }
}

impl Source for AppStream {
    fn ended_in_order(&self) -> bool {
        true
    }
}

impl Source for SslStream<PeerStream> {
    fn ended_in_order(&self) -> bool {
        !self.get_ref().was_cut()
    }
}
