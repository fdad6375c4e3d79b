//! Relay of bytes both ways between an application leg and its peer leg.
//!
//! Either side's end of file is passed on as what it is: a FIN as `close_notify`, a `close_notify` as a FIN. Anything
//! else that ends a side - a reset, a FIN without `close_notify`, a broken record - resets the other: an end of file
//! that nobody sent must never arrive.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    app_stream::{AppStream, ProtocolMismatch},
    pipe::{Failed, Peer, Pipe},
};
use crate::{sys::sockopt, telemetry::error_chain};

/// Counts of bytes that went through so far, by direction.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// Bytes from the application to the peer.
    pub(crate) up: AtomicU64,
    /// Bytes from the peer to the application.
    pub(crate) down: AtomicU64,
}

impl Copied {
    /// Bytes up and bytes down.
    pub(crate) fn both(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// Reason why a relay ended in resets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The application's side failed.
    #[error("the application reset the connection")]
    Application(#[source] io::Error),
    /// The peer's side failed, or ended without `close_notify`.
    #[error("the peer reset the connection, or broke TLS")]
    Peer(#[source] io::Error),
    /// Neither side has sent anything for this long.
    #[error("nothing was sent for {} s, which is the limit (`idle_seconds` of [time])", .0.as_secs())]
    Idle(Duration),
    /// A certificate of the peer's chain was revoked, and the policy closes such connections.
    #[error("the peer was revoked while it was connected")]
    Revoked(#[source] Revoked),
    /// The application sends what its rule is not for.
    #[error("the application is not served by its rule")]
    Mismatch(#[source] ProtocolMismatch),
}

/// Certificate that was revoked: whose, and when, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Revoked(pub(crate) String);

/// Relays until both sides have ended, or one was reset.
///
/// `option_updates` may set options of the peer leg, and is ready when the application has closed its socket for good:
/// then nobody is left to read what the peer still sends. `before_reset` is given the error before the other side is
/// reset. After `idle`, if it is not zero, without a byte either way it ends; and when `revoked` completes. Both legs
/// are reset on an error and on cancellation, because they come with a linger time of zero.
pub(crate) async fn run(
    mut app: AppStream,
    mut peer: impl Peer,
    mut option_updates: impl FnMut(&mut Context<'_>, &TcpStream) -> Poll<()>,
    before_reset: impl FnOnce(&Error),
    copied: &Copied,
    idle: Duration,
    revoked: impl Future<Output = String>,
) -> Result<(), Error> {
    let mut up = Pipe::new(&copied.up);
    let mut down = Pipe::new(&copied.down);
    let mut app_closed = false;
    let both = poll_fn(|cx| {
        let sent = up.poll(cx, Pin::new(&mut app), Pin::new(&mut peer)).map_err(Error::from_up)?;
        let received = down.poll(cx, Pin::new(&mut peer), Pin::new(&mut app)).map_err(Error::from_down)?;
        app_closed = app_closed || option_updates(cx, peer.tcp()).is_ready();
        match (sent, received) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            (Poll::Ready(()), Poll::Pending) if app_closed => Poll::Ready(Ok(())),
            (Poll::Ready(()) | Poll::Pending, Poll::Pending) | (Poll::Pending, Poll::Ready(())) => Poll::Pending,
        }
    });
    let ended = tokio::select! {
        biased;
        ended = both => ended,
        () = idled(copied, idle) => Err(Error::Idle(idle)),
        how = revoked => Err(Error::Revoked(Revoked(how))),
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
    /// Looks in each span: it is late by one at most.
    const LOOKS: u32 = 8;
    if limit.is_zero() {
        return std::future::pending().await;
    }
    let (mut last, mut unchanged) = (copied.both(), 0);
    while unchanged < LOOKS {
        sleep(limit / LOOKS).await;
        let now = copied.both();
        unchanged = if now == last { unchanged + 1 } else { 0 };
        last = now;
    }
}

impl Error {
    /// Text for `TLS_ERROR` and the log: the error and its causes in one line of ASCII, at most `limit` bytes.
    pub(crate) fn text(&self, limit: usize) -> String {
        error_chain(self).chars().filter(char::is_ascii).take(limit).collect()
    }

    fn from_up(failed: Failed) -> Self {
        match failed {
            Failed::Read(error) => error.downcast().map_or_else(Self::Application, Self::Mismatch),
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

/// Time for which a closed connection is waited for.
const LINGER: Duration = Duration::from_secs(2);
