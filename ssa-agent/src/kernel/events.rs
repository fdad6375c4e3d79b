//! Events of the hooks: the ring buffers EVENTS and PARKED as streams of typed records.

use std::{io, time::Duration};

use aya::maps::{MapData, RingBuf};
use ssa_common::event::{BlobSet, Changed, Closed, EventKind, Held, HoldEnded, Listening, Opened, Parked};
use tokio::{io::unix::AsyncFd, time::timeout};
use tracing::error;
use zerocopy::FromBytes as _;

use super::packet::Syn;

/// Event of a TLS socket.
pub(crate) enum Event {
    /// A socket has become a TLS socket.
    Opened(Opened),
    /// A value of an option, such as a path or PEM text, was set, and waits in the map BLOBS.
    Blob(BlobSet),
    /// An option for the peer leg was set on a socket that connects or is connected.
    Changed(Changed),
    /// A socket has begun to listen.
    Listening(Listening),
    /// A connect is held: its SYN was dropped. Each retransmission makes another event.
    Held(Box<Held>),
    /// A socket has left SYN_SENT: its connect is over.
    HoldEnded(HoldEnded),
    /// A socket was closed for the last time.
    Closed(Closed),
}

/// Most events between two looks at what else is to be done.
const BATCH_MAX: usize = 1024;

/// Reader of events, in order.
pub(crate) struct Events(AsyncFd<RingBuf<MapData>>);

impl Events {
    /// Makes the reader of a ring buffer. Must be called inside the runtime.
    pub(crate) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        crate::sys::async_fd::async_fd(ring).map(Self)
    }

    /// Waits for events, at most `limit`, and hands all that are there to `handle`, up to 1024. Unknown records are
    /// logged.
    ///
    /// Cancellation loses nothing.
    pub(crate) async fn batch(&mut self, limit: Duration, mut handle: impl FnMut(Event)) -> io::Result<()> {
        let Ok(ready) = timeout(limit, self.0.readable_mut()).await else { return Ok(()) };
        let mut ready = ready?;
        for _event in 0..BATCH_MAX {
            let Some(record) = ready.get_inner_mut().next() else {
                ready.clear_ready();
                break;
            };
            match parse_event(&record) {
                Some(event) => handle(event),
                None => error!(length = record.len(), "the hooks sent an unknown event"),
            }
        }
        Ok(())
    }
}

/// Reader of SYNs that were parked (ring buffer PARKED).
pub(crate) struct ParkedSyns(AsyncFd<RingBuf<MapData>>);

impl ParkedSyns {
    /// Makes the reader of a ring buffer. Must be called inside the runtime.
    pub(crate) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        crate::sys::async_fd::async_fd(ring).map(Self)
    }

    /// Waits for parked SYNs, and hands all that are there to `handle`: the id of the listener, the time at which it
    /// came in nanoseconds, and the SYN. Cancellation loses nothing.
    pub(crate) async fn batch(&mut self, mut handle: impl FnMut(u64, u64, Syn)) -> io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        while let Some(record) = ready.get_inner_mut().next() {
            if let Ok(parked) = Parked::read_from_bytes(&record)
                && let Some(syn) = parked.syn.get(..parked.syn_len as usize).and_then(Syn::parse)
            {
                handle(parked.id, parked.time, syn);
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

/// Parses a record of the ring buffer; none if it is of no known kind, or of another length.
pub(crate) fn parse_event(record: &[u8]) -> Option<Event> {
    let number = u32::from_ne_bytes(record.get(..4)?.try_into().ok()?);
    match EventKind::try_from(number).ok()? {
        EventKind::OPENED => Opened::read_from_bytes(record).ok().map(Event::Opened),
        EventKind::CHANGED => Changed::read_from_bytes(record).ok().map(Event::Changed),
        EventKind::LISTENING => Listening::read_from_bytes(record).ok().map(Event::Listening),
        EventKind::BLOB => BlobSet::read_from_bytes(record).ok().map(Event::Blob),
        EventKind::HELD => Held::read_from_bytes(record).ok().map(Box::new).map(Event::Held),
        EventKind::HOLD_ENDED => HoldEnded::read_from_bytes(record).ok().map(Event::HoldEnded),
        EventKind::CLOSED => Closed::read_from_bytes(record).ok().map(Event::Closed),
        _ => None,
    }
}
