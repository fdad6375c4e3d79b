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
    time::{Duration, Instant},
};

use openssl::{
    asn1::Asn1Time,
    ex_data::Index,
    ssl::{Ssl, SslRef, SslSession, SslVersion},
    x509::X509,
};

use super::{server_name::ServerName, staples::Staples};
use crate::options::store::Settings;

/// Where an `Ssl` keeps its [`Attempt`].
pub(crate) static ATTEMPT: LazyLock<Index<Ssl, Arc<Attempt>>> =
    LazyLock::new(|| Ssl::new_ex_index().expect("OpenSSL has room for an index"));

/// Sessions by the name they were verified for.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<ServerName, Vec<Cached>>>);

#[derive(Clone)]
struct Cached {
    session: SslSession,
    /// The chain that was verified when the session was made, leaf first.
    chain: Arc<[X509]>,
    made: Instant,
}

impl Cached {
    /// A session ends after `ttl`, and with the first certificate of its chain.
    fn is_valid(&self, ttl: Duration) -> bool {
        let Ok(now) = Asn1Time::days_from_now(0) else { return false };
        self.made.elapsed() < ttl && self.chain.iter().all(|certificate| certificate.not_after() > now)
    }
}

/// Names that one context keeps sessions of; at one more it starts anew.
const NAMES_MAX: usize = 64;
/// Sessions kept for one name: a server sends two tickets or so at a time.
const PER_NAME_MAX: usize = 4;

impl Sessions {
    /// A session for `name`. One of TLS 1.3 is used once (RFC 8446, appendix C.4), unless it is the
    /// last.
    fn take(&self, name: &ServerName, ttl: Duration) -> Option<Cached> {
        let mut names = self.lock();
        let sessions = names.get_mut(name)?;
        sessions.retain(|cached| cached.is_valid(ttl));
        if sessions.len() > 1 {
            return sessions.pop();
        }
        sessions.last().cloned()
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
    tickets: bool,
    /// The verified chain: of the offered session, or of this handshake.
    chain: OnceLock<Arc<[X509]>>,
    failure: Mutex<Option<String>>,
    /// Responses that the peer has stapled to the certificates of its chain.
    pub(super) staples: Mutex<Staples>,
}

impl Attempt {
    /// Offers a cached session, if there is one, and if the chain that stands for it will do.
    pub(super) fn begin(
        name: ServerName,
        settings: &Settings,
        ssl: &mut Ssl,
        will_do: impl FnOnce(&[X509]) -> bool,
    ) -> Arc<Self> {
        let sessions = settings.sessions.clone();
        let chain = OnceLock::new();
        let cached = sessions.as_ref().and_then(|sessions| sessions.take(&name, settings.session_ttl));
        if let Some(cached) = cached.filter(|cached| will_do(&cached.chain)) {
            // SAFETY: a cache belongs to one set of trust, and so to one SSL_CTX.
            let offered = unsafe { ssl.set_session(&cached.session) };
            if offered.is_ok() {
                chain.get_or_init(|| cached.chain);
            }
        }
        let (failure, staples) = (Mutex::default(), Mutex::default());
        Arc::new(Self { name, sessions, tickets: settings.tickets, chain, failure, staples })
    }

    /// Of a server: OpenSSL keeps the sessions.
    pub(super) fn of_client() -> Arc<Self> {
        let name = ServerName::Ip(std::net::Ipv4Addr::UNSPECIFIED.into());
        let (failure, staples) = (Mutex::default(), Mutex::default());
        Arc::new(Self { name, sessions: None, tickets: false, chain: OnceLock::new(), failure, staples })
    }

    /// Caches a session that the peer offers, now or at any time while connected.
    pub(super) fn keep(&self, ssl: &SslRef, session: SslSession) {
        let Some(sessions) = &self.sessions else { return };
        if !self.tickets && session.protocol_version() == SslVersion::TLS1_3 {
            return;
        }
        if let Some(chain) = self.chain_of(ssl) {
            sessions.put(&self.name, Cached { session, chain, made: Instant::now() });
        }
    }

    /// The chain that stands for this connection: a full handshake has verified one; a resumed one
    /// relies on that of its session.
    fn chain_of(&self, ssl: &SslRef) -> Option<Arc<[X509]>> {
        if ssl.session_reused() {
            return self.chain.get().cloned();
        }
        Some(ssl.verified_chain()?.iter().map(ToOwned::to_owned).collect())
    }

    /// The handshake is done: the verified chain, leaf first.
    pub(super) fn finish(&self, ssl: &SslRef) -> Arc<[X509]> {
        self.chain_of(ssl).unwrap_or_default()
    }

    /// Keeps the first reason of a refused certificate.
    pub(super) fn note(&self, text: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
