//! The connections: those that are open, and one line in the log for each when it is over, with target `access`.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use ssa_common::socket::Caller;
use tracing::{info, warn};

use super::error::Error;
use crate::{
    relay::{peer::Reached, relay::Copied},
    telemetry::metrics::Metrics,
};

/// All of them.
#[derive(Clone)]
pub(crate) struct Connections {
    inner: Arc<Mutex<Inner>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inner {
    /// By a number of their own: a socket may have connected again before its last connection is over.
    open: HashMap<u64, Open>,
    next: u64,
    /// The last that were not made, or were reset; the newest last.
    failures: VecDeque<Failure>,
}

/// So many failures are kept.
const FAILURES: usize = 256;

struct Open {
    /// Without its age and bytes.
    shown: Shown,
    since: Instant,
    copied: Arc<Copied>,
    /// Up and down, as far as they are in the metrics.
    counted: (u64, u64),
}

/// Bytes that were relayed since they were counted last.
pub(crate) struct Delta {
    pub(crate) up: u64,
    pub(crate) down: u64,
}

impl Open {
    fn delta(&mut self) -> Delta {
        let (up, down) = self.copied.both();
        let before = std::mem::replace(&mut self.counted, (up, down));
        Delta { up: up - before.0, down: down - before.1 }
    }
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

impl Direction {
    /// For labels and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
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
    /// The rule by which it is TLS; none if the program has asked for it.
    #[serde(default)]
    pub(crate) rule: Option<String>,
    pub(crate) version: String,
    pub(crate) cipher: String,
    pub(crate) resumed: bool,
    /// When and by whom its peer was revoked, since it was made.
    #[serde(default)]
    pub(crate) revoked: Option<String>,
    /// Seconds since 1970 of the finished handshake.
    pub(crate) since: u64,
    pub(crate) age_seconds: f64,
    /// Bytes from the program to the peer, and from the peer to the program.
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
}

/// A connection that was not made, or did not end in order.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Failure {
    /// Seconds since 1970.
    pub(crate) at: u64,
    /// `TLS_ID` of the program's socket; zero for a client that got none.
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    pub(crate) service: String,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) rule: Option<String>,
    /// What `TLS_ERROR` says.
    pub(crate) error: String,
}

/// Which connection this is.
pub(crate) struct Which<'a> {
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    pub(crate) caller: &'a Caller,
    pub(crate) service: String,
    pub(crate) name: &'a str,
    /// The rule by which it is TLS.
    pub(crate) rule: Option<&'a str>,
    pub(crate) peer: Option<SocketAddr>,
}

/// An open connection. Dropping it ends it here: if nothing else was said, because the agent has reset it.
pub(crate) struct Entry {
    connections: Connections,
    number: u64,
    pub(crate) copied: Arc<Copied>,
    /// Why it was reset; none if it was closed in order.
    error: Option<String>,
}

impl Entry {
    /// It was closed in order.
    pub(crate) fn closed(mut self) {
        self.error = None;
    }

    /// Its peer has become revoked.
    pub(crate) fn revoked(&self, how: &str) {
        self.connections.metrics.peer_revoked();
        let mut inner = self.connections.lock();
        let Some(open) = inner.open.get_mut(&self.number) else { return };
        open.shown.revoked = Some(how.to_owned());
        let (id, peer, name) = (open.shown.id, open.shown.peer, open.shown.name.clone());
        drop(inner);
        warn!(target: "access", id, peer = peer.map(tracing::field::display), name, error = how, "the peer is revoked");
    }

    /// It was reset.
    pub(crate) fn reset(mut self, why: String) {
        self.error = Some(why);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut inner = self.connections.lock();
        let Some(mut open) = inner.open.remove(&self.number) else { return };
        let (delta, shown, error) = (open.delta(), open.shown, self.error.take());
        if let Some(error) = &error {
            inner.fail(Failure {
                at: now(),
                id: shown.id,
                direction: shown.direction,
                service: shown.service.clone(),
                pid: shown.pid,
                uid: shown.uid,
                peer: shown.peer,
                name: shown.name.clone(),
                rule: shown.rule.clone(),
                error: error.clone(),
            });
        }
        drop(inner);
        let end = if error.is_none() { "closed" } else { "reset" };
        self.connections.metrics.relayed(&shown, delta);
        self.connections.metrics.closed(&shown, end);
        info!(
            target: "access",
            id = shown.id,
            direction = shown.direction.name(),
            service = shown.service,
            pid = shown.pid,
            uid = shown.uid,
            peer = shown.peer.map(tracing::field::display),
            local = shown.local.map(tracing::field::display),
            name = shown.name,
            rule = shown.rule,
            version = shown.version,
            cipher = shown.cipher,
            resumed = shown.resumed,
            seconds = open.since.elapsed().as_secs_f64(),
            bytes_up = open.counted.0,
            bytes_down = open.counted.1,
            error,
            "{end}"
        );
    }
}

impl Connections {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { inner: Arc::default(), metrics }
    }

    /// A handshake is done, for which the connection has waited since `began`.
    pub(crate) fn open(&self, which: &Which<'_>, reached: &Reached, began: Instant) -> Entry {
        let tcp = reached.tcp();
        let shown = Shown {
            id: which.id,
            direction: which.direction,
            service: which.service.clone(),
            pid: which.caller.tgid,
            uid: which.caller.uid,
            local: tcp.local_addr().ok(),
            peer: which.peer.or_else(|| tcp.peer_addr().ok()),
            name: which.name.to_owned(),
            rule: which.rule.map(str::to_owned),
            version: reached.version_name().to_owned(),
            cipher: reached.cipher().to_owned(),
            resumed: reached.resumed(),
            revoked: None,
            since: now(),
            age_seconds: 0.0,
            bytes_up: 0,
            bytes_down: 0,
        };
        self.metrics.opened(&shown, began.elapsed().as_secs_f64());
        let copied = Arc::<Copied>::default();
        let open = Open { shown, since: Instant::now(), copied: Arc::clone(&copied), counted: (0, 0) };
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        inner.open.insert(number, open);
        Entry { connections: self.clone(), number, copied, error: Some("the TLS agent has ended it".to_owned()) }
    }

    /// A connection was not made; `text` is what the program is told.
    pub(crate) fn refused(&self, which: &Which<'_>, error: &Error, text: &str) {
        let (direction, service) = (which.direction, which.service.as_str());
        self.metrics.refused(service, direction.name(), error);
        let failure = Failure {
            at: now(),
            id: which.id,
            direction,
            service: which.service.clone(),
            pid: which.caller.tgid,
            uid: which.caller.uid,
            peer: which.peer,
            name: which.name.to_owned(),
            rule: which.rule.map(str::to_owned),
            error: text.to_owned(),
        };
        self.lock().fail(failure);
        if matches!(error, Error::Limit(_)) {
            // Which is told once a second.
            return;
        }
        let peer = which.peer.map(tracing::field::display);
        let (pid, uid, name, rule) = (which.caller.tgid, which.caller.uid, which.name, which.rule);
        let (id, reason, direction) = (which.id, error.reason(), direction.name());
        if which.direction == Direction::Out {
            let errno = error.errno().name();
            warn!(target: "access", id, direction, service, pid, uid, peer, name, rule, reason, errno, error = text, "refused");
        } else {
            // Anybody can cause these.
            info!(target: "access", id, direction, service, pid, uid, peer, name, rule, reason, error = text, "refused a client");
        }
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

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// The last that failed, the newest last.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        self.lock().failures.iter().cloned().collect()
    }

    /// Adds to the metrics what open connections have relayed since.
    pub(crate) fn count_bytes(&self) {
        for open in self.lock().open.values_mut() {
            let delta = open.delta();
            self.metrics.relayed(&open.shown, delta);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn fail(&mut self, failure: Failure) {
        if self.failures.len() == FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(failure);
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
