//! Cached sessions of one context, and what an attempt adds to them.
//!
//! A resumed handshake verifies nothing by itself. So a session is only offered to the name that it
//! was verified for, under the trust that it was verified with (each context, and each set of its
//! trust, has a cache of its own), and while every certificate of the chain that was verified then
//! is still valid.

#![expect(unsafe_code, reason = "openssl marks set_session unsafe: a session fits its own SSL_CTX only")]

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use openssl::{
    asn1::{Asn1Time, Asn1TimeRef},
    ex_data::Index,
    ssl::{Ssl, SslRef, SslSession, SslVersion},
};

use super::name::ServerName;

/// Where an `Ssl` keeps its [`Attempt`].
pub(crate) static ATTEMPT: LazyLock<Index<Ssl, Arc<Attempt>>> =
    LazyLock::new(|| Ssl::new_ex_index().expect("OpenSSL has room for an index"));

/// Sessions by the name they were verified for.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<ServerName, Vec<Cached>>>);

struct Cached {
    session: SslSession,
    /// When the first certificate of the verified chain expires.
    expires: SystemTime,
}

/// Names that one context keeps sessions of; at one more it starts anew.
const NAMES_MAX: usize = 64;
/// Sessions kept for one name: a server sends two tickets or so at a time.
const PER_NAME_MAX: usize = 4;

impl Sessions {
    /// A session for `name`. One of TLS 1.3 is used once (RFC 8446, appendix C.4), unless it is the
    /// last.
    fn take(&self, name: &ServerName) -> Option<Cached> {
        let now = SystemTime::now();
        let mut names = self.lock();
        let sessions = names.get_mut(name)?;
        sessions.retain(|cached| cached.expires > now);
        if sessions.len() > 1 {
            return sessions.pop();
        }
        sessions.last().map(|last| Cached { session: last.session.clone(), expires: last.expires })
    }

    fn put(&self, name: &ServerName, cached: Cached) {
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one handshake carries along: where its sessions go, and why it was refused.
pub(crate) struct Attempt {
    name: ServerName,
    sessions: Option<Arc<Sessions>>,
    expires: OnceLock<SystemTime>,
    failure: Mutex<Option<String>>,
}

impl Attempt {
    /// Offers a cached session, if there is one.
    pub(super) fn begin(name: ServerName, sessions: Option<Arc<Sessions>>, ssl: &mut Ssl) -> Arc<Self> {
        let expires = OnceLock::new();
        if let Some(cached) = sessions.as_ref().and_then(|sessions| sessions.take(&name)) {
            // SAFETY: a cache belongs to one set of trust, and so to one SSL_CTX.
            let offered = unsafe { ssl.set_session(&cached.session) };
            if offered.is_ok() {
                expires.get_or_init(|| cached.expires);
            }
        }
        Arc::new(Self { name, sessions, expires, failure: Mutex::default() })
    }

    /// Caches a session that the peer offers, now or at any time while connected.
    pub(super) fn keep(&self, ssl: &SslRef, session: SslSession) {
        let Some(sessions) = &self.sessions else { return };
        // A full handshake has verified a chain, whose life counts; a resumed one has not.
        let expires = if ssl.session_reused() { self.expires.get().copied() } else { chain_expires(ssl) };
        if let Some(expires) = expires {
            sessions.put(&self.name, Cached { session, expires });
        }
    }

    /// The handshake is done.
    pub(super) fn finish(&self, ssl: &SslRef) {
        if !ssl.session_reused()
            && let Some(expires) = chain_expires(ssl)
        {
            self.expires.get_or_init(|| expires);
        }
    }

    /// Keeps the first reason of a refused certificate.
    pub(super) fn note(&self, text: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// When the first certificate of the chain that was just verified expires.
fn chain_expires(ssl: &SslRef) -> Option<SystemTime> {
    ssl.verified_chain()?.iter().map(|certificate| system_time(certificate.not_after())).min()?
}

fn system_time(time: &Asn1TimeRef) -> Option<SystemTime> {
    let epoch = Asn1Time::from_unix(0).ok()?;
    let diff = epoch.diff(time).ok()?;
    let seconds = i64::from(diff.days) * 86_400 + i64::from(diff.secs);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
