//! State of one handshake where OpenSSL's callbacks find it: the cache for its sessions, stapled responses, the reason
//! of a refusal.

#![expect(
    unsafe_code,
    reason = "openssl marks set_session unsafe, as a session fits its own SSL_CTX only, and has no message callback"
)]

use std::{
    ffi::{c_int, c_void},
    net::Ipv4Addr,
    slice,
    sync::{Arc, LazyLock, Mutex, OnceLock},
    time::Instant,
};

use foreign_types::ForeignTypeRef as _;
use openssl::{
    error::ErrorStack,
    ex_data::Index,
    ssl::{Ssl, SslRef, SslSession, SslVersion, StatusType},
    x509::X509,
};

use super::{
    config::ClientConfig,
    record::content_type,
    server_name::ServerName,
    session::{Cached, Sessions},
    staples::Staples,
};
use crate::sync::lock;

/// State of one handshake that OpenSSL's callbacks read and write, by [`HANDSHAKE`].
pub(crate) struct Handshake {
    name: ServerName,
    sessions: Option<Arc<Sessions>>,
    tickets: bool,
    /// Chain that was verified, leaf first: when the offered session was made.
    chain: OnceLock<Arc<[X509]>>,
    failure: Mutex<Option<String>>,
    /// OCSP responses that the peer has stapled to the certificates of its chain, by the messages of TLS 1.3. Written
    /// by the message callback ([`ask_for_staples`]).
    pub(super) staples: Mutex<Staples>,
}

impl Handshake {
    /// Begins a client's handshake: offers a cached session for `name`, if there is one and `may_resume` takes the
    /// chain that was verified when it was made.
    pub(super) fn begin(
        name: ServerName,
        config: &ClientConfig,
        ssl: &mut Ssl,
        may_resume: impl FnOnce(&[X509]) -> bool,
    ) -> Arc<Self> {
        let sessions = config.sessions.clone();
        let chain = OnceLock::new();
        let cached = sessions.as_ref().and_then(|sessions| sessions.take(&name, config.session_ttl));
        if let Some(cached) = cached.filter(|cached| may_resume(&cached.chain)) {
            // SAFETY: a cache belongs to one set of trust, and so to one SSL_CTX.
            let offered = unsafe { ssl.set_session(&cached.session) };
            if offered.is_ok() {
                chain.get_or_init(|| cached.chain);
            }
        }
        let (failure, staples) = (Mutex::default(), Mutex::default());
        Arc::new(Self { name, sessions, tickets: config.tickets, chain, failure, staples })
    }

    /// Makes the state of a server's handshake, whose sessions OpenSSL keeps.
    pub(super) fn of_server() -> Arc<Self> {
        let name = ServerName::Ip(Ipv4Addr::UNSPECIFIED.into());
        let (failure, staples) = (Mutex::default(), Mutex::default());
        Arc::new(Self { name, sessions: None, tickets: false, chain: OnceLock::new(), failure, staples })
    }

    /// Caches a session that the peer sends, now or at any time while connected.
    pub(super) fn keep(&self, ssl: &SslRef, session: SslSession) {
        let Some(sessions) = &self.sessions else { return };
        if !self.tickets && session.protocol_version() == SslVersion::TLS1_3 {
            return;
        }
        if let Some(chain) = self.chain_of(ssl) {
            sessions.put(&self.name, Cached { session, chain, made: Instant::now() });
        }
    }

    /// Verified chain of this connection: of a full handshake its own; of a resumed one, that of its session.
    fn chain_of(&self, ssl: &SslRef) -> Option<Arc<[X509]>> {
        if ssl.session_reused() {
            return self.chain.get().cloned();
        }
        Some(ssl.verified_chain()?.iter().map(ToOwned::to_owned).collect())
    }

    /// Finishes the handshake: the verified chain, leaf first. Empty if the peer has shown no certificate.
    pub(super) fn finish(&self, ssl: &SslRef) -> Arc<[X509]> {
        self.chain_of(ssl).unwrap_or_default()
    }

    /// Keeps the reason of a refused certificate; the first one counts.
    pub(super) fn note(&self, text: String) {
        lock(&self.failure).get_or_insert(text);
    }

    /// Takes the reason of a refused certificate, if one was kept.
    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.failure).take()
    }
}

/// Index of an `Ssl`'s application data that has its [`Handshake`] (`SSL_get_ex_new_index(3)`).
pub(super) static HANDSHAKE: LazyLock<Index<Ssl, Arc<Handshake>>> =
    LazyLock::new(|| Ssl::new_ex_index().expect("OpenSSL has room for an index"));

type Callback = unsafe extern "C" fn(c_int, c_int, c_int, *const c_void, usize, *mut openssl_sys::SSL, *mut c_void);

unsafe extern "C" {
    fn SSL_set_msg_callback(ssl: *mut openssl_sys::SSL, callback: Option<Callback>);
}

/// Asks the peer for OCSP responses, and begins to watch the handshake's messages for them. The `Ssl` must have a
/// [`Handshake`].
pub(super) fn ask_for_staples(ssl: &mut SslRef) -> Result<(), ErrorStack> {
    ssl.set_status_type(StatusType::OCSP)?;
    // SAFETY: the `Ssl` is alive, and the callback is one for as long as the process runs.
    unsafe { SSL_set_msg_callback(ssl.as_ptr(), Some(message)) };
    Ok(())
}

/// Ends the watching of messages that [`ask_for_staples`] has begun, once the handshake is done.
pub(super) fn stop_watching(ssl: &SslRef) {
    // SAFETY: the `Ssl` is alive.
    unsafe { SSL_set_msg_callback(ssl.as_ptr(), None) };
}

/// Message callback (`SSL_set_msg_callback(3)`): sees each message of the handshake, decrypted, and keeps the responses
/// that a Certificate message has.
unsafe extern "C" fn message(
    is_own: c_int,
    version: c_int,
    content_type: c_int,
    bytes: *const c_void,
    length: usize,
    ssl: *mut openssl_sys::SSL,
    _own: *mut c_void,
) {
    const TLS_1_3: c_int = 0x0304;
    const RECORD: c_int = content_type::HANDSHAKE as c_int;
    if is_own != 0 || version != TLS_1_3 || content_type != RECORD || bytes.is_null() {
        return;
    }
    // SAFETY: OpenSSL calls this with a message of that length, and its own `Ssl`.
    let (bytes, ssl) = unsafe { (slice::from_raw_parts(bytes.cast::<u8>(), length), SslRef::from_ptr(ssl)) };
    if let (Some(handshake), Some(found)) = (ssl.ex_data(*HANDSHAKE), Staples::parse(bytes)) {
        *lock(&handshake.staples) = found;
    }
}
