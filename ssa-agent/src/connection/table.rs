//! Connections that are open, and the last that failed.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    access_log,
    error::Error,
    info::{ConnectionInfo, ConnectionLabels, Failure},
};
use crate::{
    relay::{Copied, PeerConnection},
    sync::lock,
    telemetry::{Labels, Metrics},
};

/// Table of open connections, each with its line in the access log and in the metrics. Clones share it.
#[derive(Clone)]
pub(crate) struct ConnectionTable {
    inner: Arc<Mutex<Inner>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inner {
    /// Open connections by a number of their own: a socket may have connected again before its last connection is over.
    open: HashMap<u64, Open>,
    next: u64,
    /// Last connections that were not made, or were reset; the newest last.
    failures: VecDeque<Failure>,
}

/// Most failures that are kept.
const FAILURES: usize = 256;

struct Open {
    /// Labels and facts, without age and bytes.
    info: ConnectionInfo,
    since: Instant,
    copied: Arc<Copied>,
    /// Bytes up and down that are in the metrics already.
    counted: (u64, u64),
}

impl Open {
    /// Takes the bytes up and down that are not in the metrics yet.
    fn uncounted(&mut self) -> (u64, u64) {
        let (up, down) = self.copied.both();
        let before = std::mem::replace(&mut self.counted, (up, down));
        (up - before.0, down - before.1)
    }
}

/// Entry of an open connection in the table. Dropping it takes the connection out, logs its end and counts it: unless
/// [`Self::closed`] or [`Self::reset`] was called, as reset by the agent.
pub(crate) struct AccessLogEntry {
    table: ConnectionTable,
    number: u64,
    /// Counts of bytes that were relayed so far; the relay writes them.
    pub(crate) copied: Arc<Copied>,
    /// Reason why it was reset; none if it was closed in order.
    error: Option<String>,
}

impl AccessLogEntry {
    /// Ends the connection in order.
    pub(crate) fn closed(mut self) {
        self.error = None;
    }

    /// Ends the connection as reset, with the reason.
    pub(crate) fn reset(mut self, why: String) {
        self.error = Some(why);
    }

    /// Notes that the connection's peer has become revoked; `how` is the reason in words.
    pub(crate) fn revoked(&self, how: &str) {
        self.table.metrics.peer_revoked();
        let mut inner = self.table.lock();
        let Some(open) = inner.open.get_mut(&self.number) else { return };
        open.info.revoked = Some(how.to_owned());
        let info = open.info.clone();
        drop(inner);
        access_log::revoked(&info, how);
    }
}

impl Drop for AccessLogEntry {
    fn drop(&mut self) {
        let mut inner = self.table.lock();
        let Some(mut open) = inner.open.remove(&self.number) else { return };
        let ((up, down), info, error) = (open.uncounted(), open.info, self.error.take());
        if let Some(error) = &error {
            inner.fail(Failure {
                at: now(),
                id: info.id,
                direction: info.direction,
                service: info.service.clone(),
                pid: info.pid,
                uid: info.uid,
                peer: info.peer,
                name: info.name.clone(),
                rule: info.rule.clone(),
                error: error.clone(),
            });
        }
        drop(inner);
        let labels = labels(&info);
        self.table.metrics.relayed(labels, up, down);
        self.table.metrics.closed(labels, if error.is_none() { "closed" } else { "reset" });
        access_log::ended(&info, open.since.elapsed().as_secs_f64(), open.counted, error.as_deref());
    }
}

impl ConnectionTable {
    /// Makes an empty table that counts in `metrics`.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { inner: Arc::default(), metrics }
    }

    /// Enters a connection whose handshake is done; `began` is when the application asked for it.
    pub(crate) fn open(&self, of: &ConnectionLabels<'_>, peer: &PeerConnection, began: Instant) -> AccessLogEntry {
        let tcp = peer.tcp();
        let info = ConnectionInfo {
            id: of.id,
            direction: of.direction,
            service: of.service.clone(),
            pid: of.caller.tgid,
            uid: of.caller.uid,
            local: tcp.local_addr().ok(),
            peer: of.peer.or_else(|| tcp.peer_addr().ok()),
            name: of.name.to_owned(),
            rule: of.rule.map(str::to_owned),
            version: peer.version_name().to_owned(),
            cipher: peer.cipher().to_owned(),
            resumed: peer.resumed(),
            revoked: None,
            since: now(),
            age_seconds: 0.0,
            bytes_up: 0,
            bytes_down: 0,
        };
        self.metrics.opened(labels(&info), &info.version, info.resumed, began.elapsed().as_secs_f64());
        let copied = Arc::<Copied>::default();
        let open = Open { info, since: Instant::now(), copied: Arc::clone(&copied), counted: (0, 0) };
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        inner.open.insert(number, open);
        AccessLogEntry { table: self.clone(), number, copied, error: Some("the TLS agent has ended it".to_owned()) }
    }

    /// Notes a connection that was not made; `text` is what `TLS_ERROR` says.
    pub(crate) fn refused(&self, of: &ConnectionLabels<'_>, error: &Error, text: &str) {
        let labels = Labels { service: &of.service, direction: of.direction.name() };
        self.metrics.refused(labels, error.reason());
        self.lock().fail(Failure {
            at: now(),
            id: of.id,
            direction: of.direction,
            service: of.service.clone(),
            pid: of.caller.tgid,
            uid: of.caller.uid,
            peer: of.peer,
            name: of.name.to_owned(),
            rule: of.rule.map(str::to_owned),
            error: text.to_owned(),
        });
        access_log::refused(of, error, text);
    }

    /// Lists the open connections, the oldest first.
    pub(crate) fn infos(&self) -> Vec<ConnectionInfo> {
        let info = |open: &Open| ConnectionInfo {
            age_seconds: open.since.elapsed().as_secs_f64(),
            bytes_up: open.copied.up.load(Ordering::Relaxed),
            bytes_down: open.copied.down.load(Ordering::Relaxed),
            ..open.info.clone()
        };
        let mut infos: Vec<ConnectionInfo> = self.lock().open.values().map(info).collect();
        infos.sort_by(|one, other| other.age_seconds.total_cmp(&one.age_seconds));
        infos
    }

    /// Number of open connections.
    pub(crate) fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// Number of open connections by service and direction. Adds the bytes that were relayed until now to the metrics.
    pub(crate) fn counts(&self) -> Vec<(String, &'static str, u64)> {
        let mut counts: HashMap<(String, &'static str), u64> = HashMap::new();
        for open in self.lock().open.values_mut() {
            let (up, down) = open.uncounted();
            self.metrics.relayed(labels(&open.info), up, down);
            *counts.entry((open.info.service.clone(), open.info.direction.name())).or_default() += 1;
        }
        counts.into_iter().map(|((service, direction), open)| (service, direction, open)).collect()
    }

    /// Last failures, the newest last.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        self.lock().failures.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
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

fn labels(info: &ConnectionInfo) -> Labels<'_> {
    Labels { service: &info.service, direction: info.direction.name() }
}

/// Current time, in seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
