//! The connections that are open, for whoever asks.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use ssa_common::socket::Caller;

use crate::{relay::Copied, tls::Secured};

/// All of them.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// By a number of their own: a socket may have connected again before its last connection is over.
    open: HashMap<u64, Open>,
    next: u64,
}

struct Open {
    /// Without its age and bytes.
    shown: Shown,
    since: Instant,
    copied: Arc<Copied>,
}

/// Who began it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    /// The program has connected.
    Out,
    /// The program has accepted.
    In,
}

/// One connection, as it is shown.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Shown {
    /// `TLS_ID` of the program's socket.
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    /// The attached cgroup; empty if it is gone.
    pub(crate) service: String,
    /// Who has connected; who has made the listener.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) peer: Option<SocketAddr>,
    /// Whom the peer had to prove to be; the name that a client asked for.
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) cipher: String,
    pub(crate) resumed: bool,
    /// Seconds since 1970 of the finished handshake.
    pub(crate) since: u64,
    pub(crate) age_seconds: f64,
    /// Bytes from the program to the peer, and from the peer to the program.
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
}

/// Which connection this is.
pub(crate) struct Which<'a> {
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    pub(crate) caller: &'a Caller,
    pub(crate) service: String,
    pub(crate) name: &'a str,
    pub(crate) peer: Option<SocketAddr>,
}

/// An open connection. Dropping it ends it here.
pub(crate) struct Entry {
    connections: Connections,
    number: u64,
    pub(crate) copied: Arc<Copied>,
}

impl Connections {
    /// A handshake is done.
    pub(crate) fn open(&self, which: &Which<'_>, secured: &Secured) -> Entry {
        let tcp = secured.stream.get_ref().tcp();
        let shown = Shown {
            id: which.id,
            direction: which.direction,
            service: which.service.clone(),
            pid: which.caller.tgid,
            uid: which.caller.uid,
            local: tcp.local_addr().ok(),
            peer: which.peer.or_else(|| tcp.peer_addr().ok()),
            name: which.name.to_owned(),
            version: if secured.version() == 0x0304 { "TLS 1.3" } else { "TLS 1.2" }.to_owned(),
            cipher: secured.cipher().to_owned(),
            resumed: secured.resumed(),
            since: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            age_seconds: 0.0,
            bytes_up: 0,
            bytes_down: 0,
        };
        let copied = Arc::<Copied>::default();
        let open = Open { shown, since: Instant::now(), copied: Arc::clone(&copied) };
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        inner.open.insert(number, open);
        Entry { connections: self.clone(), number, copied }
    }

    /// What is open now, the oldest first.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let mut shown: Vec<Shown> = self
            .lock()
            .open
            .values()
            .map(|open| Shown {
                age_seconds: open.since.elapsed().as_secs_f64(),
                bytes_up: open.copied.up.load(Ordering::Relaxed),
                bytes_down: open.copied.down.load(Ordering::Relaxed),
                ..open.shown.clone()
            })
            .collect();
        shown.sort_by(|one, other| other.age_seconds.total_cmp(&one.age_seconds));
        shown
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.number);
    }
}
