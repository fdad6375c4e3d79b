//! Settings and policy to OpenSSL, and a handshake whose only way out is a verified peer.

use super::{certificate, cipher, credentials, session, staples};
use std::{io, pin::Pin, sync::Arc, time::Instant};

use openssl::{
    error::ErrorStack,
    hash::MessageDigest,
    ssl::{
        Ssl, SslContext, SslContextBuilder, SslFiletype, SslMethod, SslMode, SslOptions, SslRef, SslSessionCacheMode,
        SslVerifyMode, SslVersion,
    },
    x509::{
        X509, X509StoreContext, X509VerifyResult,
        store::{X509Lookup, X509StoreBuilder},
        verify::{X509CheckFlags, X509VerifyFlags},
    },
};
use ssa_common::uapi;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::{cipher::Suite, peer::PeerStream, server_name::ServerName, session::Attempt, staples::Staples};
use crate::{
    options::store::Settings,
    policy::policy::{self, Policy},
    revocation::revocation::{self, Inquiry},
};

/// Why there is no TLS connection: the peer's fault, or the settings'.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The peer's certificate was refused; the text says which and why.
    #[error("{0}")]
    Certificate(String),
    /// The handshake failed before or after the certificate.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// The same, and the peer has said nothing that would be TLS.
    #[error("TLS handshake failed: {0}")]
    NoTls(String),
    /// A certificate of the peer's chain is revoked, or nobody says that it is not.
    #[error(transparent)]
    Revocation(#[from] revocation::Error),
    /// The host name is none that can be verified.
    #[error(transparent)]
    Name(#[from] super::server_name::Invalid),
    /// OpenSSL refused the settings.
    #[error("OpenSSL refused the settings: {0}")]
    Settings(#[from] ErrorStack),
    /// The certificates or keys that the program named can't be used.
    #[error("{0}")]
    Brought(String),
}

/// A peer leg after its handshake. Only [`connect`] makes one: the peer is verified.
pub(crate) struct Secured {
    pub(crate) stream: SslStream<PeerStream>,
    /// The chain that was verified, leaf first: now, or when the session was made.
    pub(super) chain: Arc<[X509]>,
}

impl Secured {
    /// OpenSSL's name of the negotiated cipher.
    pub(crate) fn cipher(&self) -> &'static str {
        self.stream.ssl().current_cipher().map_or("", |cipher| cipher.name())
    }

    /// The negotiated version as on the wire: 0x0303 or 0x0304.
    pub(crate) fn version(&self) -> i64 {
        match self.stream.ssl().version2() {
            Some(SslVersion::TLS1_3) => 0x0304,
            Some(_) | None => 0x0303,
        }
    }

    /// Subject of the peer's certificate, RFC 2253, cut to what an answer has room for.
    pub(crate) fn identity(&self) -> String {
        let mut text = self.chain.first().map(|leaf| certificate::name(leaf.subject_name())).unwrap_or_default();
        text = text.replace(|letter: char| letter.is_control(), " ");
        while text.len() > IDENTITY_BYTES {
            text.pop();
        }
        text
    }

    /// The application protocol that the peer chose.
    pub(crate) fn alpn(&self) -> Option<&str> {
        self.stream.ssl().selected_alpn_protocol().and_then(|protocol| std::str::from_utf8(protocol).ok())
    }

    /// The verified chain, leaf first.
    pub(crate) fn chain(&self) -> &[X509] {
        &self.chain
    }

    /// SHA-256 of the peer's certificate.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let digest = self.chain.first().and_then(|leaf| leaf.digest(MessageDigest::sha256()).ok());
        digest.and_then(|digest| digest.as_ref().try_into().ok()).unwrap_or_default()
    }

    /// The name that a client asked for.
    pub(crate) fn sni(&self) -> Option<&str> {
        self.stream.ssl().servername(openssl::ssl::NameType::HOST_NAME)
    }

    pub(crate) fn resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }
}

/// Longest subject that is shown, in bytes.
const IDENTITY_BYTES: usize = 400;

/// Trusts whom the policy trusts, or these certificates only.
pub(crate) fn context(policy: &Policy, trusted: Option<Vec<X509>>) -> Result<SslContext, Error> {
    let mut builder = SslContextBuilder::new(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    // Whoever is there after it would not be looked at.
    builder.set_options(SslOptions::NO_RENEGOTIATION);
    let mut store = match trusted {
        None => trust(&policy.trust)?,
        Some(certificates) => {
            let mut store = X509StoreBuilder::new()?;
            for certificate in certificates {
                store.add_cert(certificate)?;
            }
            store
        }
    };
    if policy.trust.strict {
        store.set_flags(X509VerifyFlags::X509_STRICT)?;
    }
    builder.set_cert_store(store.build());
    builder.set_verify_depth(u32::try_from(policy.trust.verify_depth).unwrap_or(u32::MAX));
    limit_algorithms(&mut builder, policy)?;
    builder.set_verify_callback(SslVerifyMode::PEER, noting_failures);
    // An idle connection keeps no buffers; a busy one reads whole records in one call.
    builder.set_mode(SslMode::RELEASE_BUFFERS | SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    builder.set_read_ahead(true);
    builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    builder.set_new_session_callback(|ssl, session| {
        if let Some(attempt) = ssl.ex_data(*session::ATTEMPT) {
            attempt.keep(ssl, session);
        }
    });
    Ok(builder.build())
}

/// What the policy says for both sides.
pub(super) fn limit_algorithms(builder: &mut SslContextBuilder, policy: &Policy) -> Result<(), Error> {
    if !policy.tls.groups.is_empty() {
        builder.set_groups_list(&policy.tls.groups.join(":"))?;
    }
    if !policy.tls.signature_algorithms.is_empty() {
        builder.set_sigalgs_list(&policy.tls.signature_algorithms.join(":"))?;
    }
    if !policy.sessions.tickets {
        builder.set_options(SslOptions::NO_TICKET);
    }
    Ok(())
}

/// OpenSSL's verdict on a certificate, whose reason is kept.
pub(super) fn noting_failures(valid: bool, store: &mut openssl::x509::X509StoreContextRef) -> bool {
    if !valid {
        note_failure(store);
    }
    valid
}

/// How long a server's sessions live (`SSL_CTX_set_timeout(3)`).
#[expect(unsafe_code, reason = "the openssl crate lacks it")]
pub(super) fn set_timeout(builder: &mut SslContextBuilder, ttl: std::time::Duration) {
    unsafe extern "C" {
        fn SSL_CTX_set_timeout(context: *mut openssl_sys::SSL_CTX, seconds: std::ffi::c_long) -> std::ffi::c_long;
    }
    let seconds = std::ffi::c_long::try_from(ttl.as_secs()).unwrap_or(std::ffi::c_long::MAX);
    // SAFETY: the context is alive.
    unsafe { SSL_CTX_set_timeout(builder.as_ptr(), seconds) };
}

/// A store of what the administrator trusts.
fn trust(trust: &policy::Trust) -> Result<X509StoreBuilder, Error> {
    let mut store = X509StoreBuilder::new()?;
    if trust.system {
        store.set_default_paths()?;
    }
    for path in &trust.files {
        let wrong = |what: String| Error::Brought(format!("{}: {what}", path.display()));
        let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        for certificate in credentials::certificates(&pem).map_err(wrong)? {
            store.add_cert(certificate)?;
        }
    }
    if !trust.directories.is_empty() {
        let lookup = store.add_lookup(X509Lookup::hash_dir())?;
        for path in &trust.directories {
            if !path.is_dir() {
                return Err(Error::Brought(format!("{}: not a directory", path.display())));
            }
            lookup.add_dir(&path.to_string_lossy(), SslFiletype::PEM)?;
        }
    }
    Ok(store)
}

/// Shakes hands with a peer that must prove to be `name`, and whose certificates must not be revoked, as far as is asked, which
/// must be known by `until`.
///
/// Cancellation closes the connection.
pub(crate) async fn connect(
    settings: &Settings,
    inquiry: Option<&Inquiry>,
    stream: TcpStream,
    name: &ServerName,
    until: Instant,
) -> Result<Secured, Error> {
    let mut ssl = Ssl::new(&settings.tls)?;
    restrict(&mut ssl, settings.versions, &settings.suites)?;
    for credential in settings.credentials.iter() {
        credential.offer(&mut ssl)?;
    }
    let param = ssl.param_mut();
    param.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS | X509CheckFlags::NEVER_CHECK_SUBJECT);
    match name {
        ServerName::Dns(host) => {
            param.set_host(host)?;
            ssl.set_hostname(host)?;
        }
        ServerName::Ip(addr) => param.set_ip(*addr)?,
    }
    if !settings.alpn.is_empty() {
        ssl.set_alpn_protos(&settings.alpn)?;
    }
    let will_do = |chain: &[X509]| inquiry.is_none_or(|inquiry| inquiry.needs_no_staple(chain));
    let attempt = Attempt::begin(name.clone(), settings, &mut ssl, will_do);
    ssl.set_ex_data(*session::ATTEMPT, Arc::clone(&attempt));
    if inquiry.is_some() {
        staples::ask(&mut ssl)?;
    }
    let mut stream = SslStream::new(ssl, PeerStream::new(stream))?;
    Pin::new(&mut stream).connect().await.map_err(|error| failure(&error, &attempt, stream.ssl()))?;
    // OpenSSL has checked all of this; a handshake that got here without is a bug that must not pass.
    let verified = stream.ssl().verify_result() == X509VerifyResult::OK;
    if !verified || stream.ssl().peer_certificate().is_none() {
        return Err(Error::Certificate("the peer was not verified".to_owned()));
    }
    let chain = attempt.finish(stream.ssl());
    if let Some(inquiry) = inquiry {
        staples::stop(stream.ssl());
        let fresh = !stream.ssl().session_reused();
        let staples = fresh.then(|| Staples::taken(stream.ssl(), &attempt.staples));
        inquiry.check(&chain, staples.as_ref(), until).await?;
    }
    Ok(Secured { stream, chain })
}

/// Versions and cipher suites. A version without suites is not offered.
pub(super) fn restrict(ssl: &mut Ssl, (mut min, mut max): (i64, i64), suites: &[Suite]) -> Result<(), Error> {
    let suites_1_2 = cipher::text(suites, false);
    let suites_1_3 = cipher::text(suites, true);
    if suites_1_2.is_empty() {
        min = uapi::TLS_1_3;
    }
    if suites_1_3.is_empty() {
        max = uapi::TLS_1_2;
    }
    if min > max {
        return Err(Error::Brought("no cipher suite is left for the versions that are allowed".to_owned()));
    }
    ssl.set_min_proto_version(Some(version(min)))?;
    ssl.set_max_proto_version(Some(version(max)))?;
    if !suites_1_2.is_empty() {
        ssl.set_cipher_list(&suites_1_2)?;
    }
    ssl.set_ciphersuites(&suites_1_3)?;
    Ok(())
}

fn version(wire: i64) -> SslVersion {
    if wire == uapi::TLS_1_3 { SslVersion::TLS1_3 } else { SslVersion::TLS1_2 }
}

/// Keeps the words for what OpenSSL's verification is about to refuse.
fn note_failure(store: &mut openssl::x509::X509StoreContextRef) {
    let Ok(index) = X509StoreContext::ssl_idx() else { return };
    let text = certificate::refusal(store.error(), store.current_cert());
    if let Some(attempt) = store.ex_data(index).and_then(|ssl| ssl.ex_data(*session::ATTEMPT)) {
        attempt.note(text);
    }
}

pub(super) fn failure(error: &openssl::ssl::Error, attempt: &Attempt, ssl: &SslRef) -> Error {
    // There from the first answer of TLS on.
    let mut random = [0; 32];
    ssl.server_random(&mut random);
    let failed = if random == [0; 32] { Error::NoTls } else { Error::Handshake };
    if ssl.verify_result() != X509VerifyResult::OK
        && let Some(text) = attempt.failure()
    {
        return Error::Certificate(text);
    }
    if let Some(io) = error.io_error() {
        let reset = io.kind() == io::ErrorKind::ConnectionReset;
        return failed(if reset { "the peer reset the connection".to_owned() } else { io.to_string() });
    }
    let Some(first) = error.ssl_error().and_then(|stack| stack.errors().first()) else {
        return failed("the peer closed the connection".to_owned());
    };
    let reason = first.reason().unwrap_or("unknown error");
    Error::Handshake(match reason {
        "unexpected eof while reading" => return failed("the peer closed the connection".to_owned()),
        "wrong version number" | "packet length too long" | "http request" => {
            return failed(format!("the peer does not seem to speak TLS ({reason})"));
        }
        "unsupported protocol" | "tlsv1 alert protocol version" | "sslv3 alert handshake failure" => {
            format!("no version or cipher in common with the peer ({reason})")
        }
        _ => reason.to_owned(),
    })
}
