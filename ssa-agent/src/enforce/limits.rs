//! Limits on open connections, in all, for each service and each user; and on handshakes in flight.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use ssa_common::socket::Caller;
use tracing::{info, warn};

use crate::policy;
use crate::sync::lock;

/// Counts of open connections and handshakes, and their limits. Clones share them.
#[derive(Clone)]
pub(crate) struct Limits(Arc<Mutex<Inner>>);

struct Inner {
    most: policy::Limits,
    /// Most connections that the limit of open files leaves room for.
    room: u64,
    connections: u64,
    handshakes: u64,
    services: HashMap<u64, u64>,
    users: HashMap<u32, u64>,
    /// Time at which each limit was last logged, by its key of the configuration; and how often it was met since.
    logged: HashMap<&'static str, (Instant, u64)>,
}

/// Error: a limit is reached, and one more is refused.
#[derive(Debug, thiserror::Error)]
#[error("there are {most} {what} already: the limit is `{key}` of [limits]{of}")]
pub(crate) struct LimitExceeded {
    what: &'static str,
    key: &'static str,
    most: u64,
    of: &'static str,
}

/// Permit of a connection, which is counted until this is dropped.
pub(crate) struct Permit {
    limits: Limits,
    service: u64,
    uid: u32,
}

/// Permit of a handshake, which is counted until this is dropped.
pub(crate) struct Handshake(Limits);

/// Shortest time between two log lines about one limit.
const LOG_PAUSE: Duration = Duration::from_secs(1);

impl Limits {
    /// Puts the limits of the configuration in force, with nothing counted yet. Reads the process's limit of open
    /// files.
    pub(crate) fn new(most: &policy::Limits) -> Self {
        let inner = Inner {
            most: most.clone(),
            room: room(),
            connections: 0,
            handshakes: 0,
            services: HashMap::new(),
            users: HashMap::new(),
            logged: HashMap::new(),
        };
        let limits = Self(Arc::new(Mutex::new(inner)));
        limits.replace(most);
        limits
    }

    /// Puts other limits in force. What is open stays, though it be more.
    pub(crate) fn replace(&self, most: &policy::Limits) {
        let mut inner = self.lock();
        inner.most = most.clone();
        if most.connections > inner.room {
            info!(
                connections = inner.room,
                "the limit of open files (`ulimit -n`, LimitNOFILE=) leaves room for fewer connections than \
                 [limits] allows"
            );
        }
    }

    /// Counts a connection of an application, if there may be one more.
    pub(crate) fn connection(&self, caller: &Caller) -> Result<Permit, LimitExceeded> {
        let (service, uid) = (caller.service, caller.uid);
        let mut inner = self.lock();
        let Inner { most, room, connections, services, users, .. } = &mut *inner;
        let of_service = services.get(&service).copied().unwrap_or(0);
        let of_user = users.get(&uid).copied().unwrap_or(0);
        let met = |what, key, most, of| LimitExceeded { what, key, most, of };
        let found = if *connections >= most.connections {
            Some(met("TLS connections", "connections", most.connections, ""))
        } else if *connections >= *room {
            Some(met("TLS connections", "connections", *room, ", and that of open files is below it"))
        } else if of_service >= most.connections_per_service {
            Some(met("TLS connections of the service", "connections_per_service", most.connections_per_service, ""))
        } else if of_user >= most.connections_per_user {
            Some(met("TLS connections of the user", "connections_per_user", most.connections_per_user, ""))
        } else {
            None
        };
        if let Some(met) = found {
            inner.log(&met);
            return Err(met);
        }
        *connections += 1;
        *services.entry(service).or_default() += 1;
        *users.entry(uid).or_default() += 1;
        drop(inner);
        Ok(Permit { limits: self.clone(), service, uid })
    }

    /// Counts a handshake, if there may be one more.
    pub(crate) fn handshake(&self) -> Result<Handshake, LimitExceeded> {
        let mut inner = self.lock();
        if inner.handshakes >= inner.most.handshakes {
            let met = LimitExceeded { what: "TLS handshakes", key: "handshakes", most: inner.most.handshakes, of: "" };
            inner.log(&met);
            return Err(met);
        }
        inner.handshakes += 1;
        drop(inner);
        Ok(Handshake(self.clone()))
    }

    /// Whether nothing is open or on its way.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.connections == 0 && inner.handshakes == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}

impl Inner {
    fn log(&mut self, met: &LimitExceeded) {
        let (last, since) = self.logged.entry(met.key).or_insert((Instant::now(), 0));
        *since += 1;
        if *since == 1 || last.elapsed() >= LOG_PAUSE {
            warn!(times = *since, "{met}");
            *last = Instant::now();
            // The next one of this second is counted, not logged.
            *since = 1;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inner = self.limits.lock();
        inner.connections -= 1;
        less(&mut inner.services, self.service);
        less(&mut inner.users, self.uid);
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.lock().handshakes -= 1;
    }
}

/// Takes one from a count, and removes the entry at zero.
fn less<K: Eq + Hash>(counts: &mut HashMap<K, u64>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// Number of connections that the limit of open files leaves room for: each takes two, and some are for all else.
fn room() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    const ELSE: u64 = 2048;
    let (files, _hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    (files - (files / 4).min(ELSE)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(service: u64, uid: u32) -> Caller {
        use zerocopy::FromZeros as _;
        Caller { service, uid, ..Caller::new_zeroed() }
    }

    #[test]
    fn one_more_than_each_limit_is_refused_and_what_ends_makes_room() {
        let most = policy::Limits {
            connections: 4,
            connections_per_service: 3,
            connections_per_user: 2,
            handshakes: 1,
            ..policy::Policy::default().limits
        };
        let limits = Limits::new(&most);
        let refused = |caller| limits.connection(&caller).err().map(|met| met.key);
        let one = limits.connection(&caller(1, 1)).unwrap();
        let _two = limits.connection(&caller(1, 1)).unwrap();
        assert_eq!(refused(caller(1, 1)), Some("connections_per_user"));
        let _three = limits.connection(&caller(1, 2)).unwrap();
        assert_eq!(refused(caller(1, 2)), Some("connections_per_service"));
        let _four = limits.connection(&caller(2, 2)).unwrap();
        assert_eq!(refused(caller(2, 3)), Some("connections"));
        drop(one);
        let _again = limits.connection(&caller(2, 3)).unwrap();
        let handshake = limits.handshake().unwrap();
        assert!(limits.handshake().is_err());
        drop(handshake);
        assert!(limits.handshake().is_ok());
    }
}
