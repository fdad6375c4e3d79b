//! Cached sessions of one context.
//!
//! A resumed handshake verifies nothing by itself. So a session is only offered to the name that it
//! was verified for, under the trust that it was verified with (each context, and each set of its
//! trust, has a cache of its own), and while every certificate of the chain that was verified then
//! is still valid.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use openssl::{
    asn1::Asn1Time,
    ssl::{SslSession, SslVersion},
    x509::X509,
};

use super::server_name::ServerName;
use crate::sync::lock;

/// Cache of sessions by the name they were verified for, which clients share.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<ServerName, Vec<Cached>>>);

/// A session, and what it stands for.
#[derive(Clone)]
pub(super) struct Cached {
    /// Session, as OpenSSL resumes it.
    pub(super) session: SslSession,
    /// The chain that was verified when the session was made, leaf first.
    pub(super) chain: Arc<[X509]>,
    /// Time at which the server sent it.
    pub(super) made: Instant,
}

impl Cached {
    /// Whether it may still be resumed: a session ends after `ttl`, and with the first certificate of its chain.
    fn is_valid(&self, ttl: Duration) -> bool {
        let Ok(now) = Asn1Time::days_from_now(0) else { return false };
        self.made.elapsed() < ttl && self.chain.iter().all(|certificate| certificate.not_after() > now)
    }
}

/// Names that one context keeps sessions of; at one more the cache is emptied.
const NAMES_MAX: usize = 64;

/// Sessions kept for one name: a server sends two tickets or so at a time.
const PER_NAME_MAX: usize = 4;

impl Sessions {
    /// Takes a session for `name` that is younger than `ttl`. One of TLS 1.3 is used once (RFC 8446, appendix C.4),
    /// unless it is the last.
    pub(super) fn take(&self, name: &ServerName, ttl: Duration) -> Option<Cached> {
        let mut names = self.lock();
        let sessions = names.get_mut(name)?;
        sessions.retain(|cached| cached.is_valid(ttl));
        if sessions.len() > 1 {
            return sessions.pop();
        }
        sessions.last().cloned()
    }

    /// Keeps a session for `name`; of TLS 1.2 only the newest.
    pub(super) fn put(&self, name: &ServerName, cached: Cached) {
        let mut names = self.lock();
        if names.len() >= NAMES_MAX && !names.contains_key(name) {
            names.clear();
        }
        let sessions = names.entry(name.clone()).or_default();
        if sessions.len() >= PER_NAME_MAX || cached.session.protocol_version() != SslVersion::TLS1_3 {
            sessions.clear();
        }
        sessions.push(cached);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServerName, Vec<Cached>>> {
        lock(&self.0)
    }
}
