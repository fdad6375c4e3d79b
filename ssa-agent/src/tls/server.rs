//! The server's side of a handshake: whose certificate is shown, and who may come in.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use openssl::{
    hash::MessageDigest,
    ssl::{
        AlpnError, NameType, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef,
        SslSessionCacheMode, SslVerifyMode, select_next_proto,
    },
    x509::{X509, X509VerifyResult, store::X509StoreBuilder, verify::X509VerifyFlags},
};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;
use tracing::warn;

use super::{
    certificate::covers,
    cipher::Suite,
    client::{Error, Secured},
    credentials::Credential,
    peer::PeerStream,
    session::{ATTEMPT, Attempt},
};
use crate::{
    policy::policy::{self, Policy},
    revocation::revocation::{Checks, Inquiry, Origin, Revocation, Subject},
};

/// What a listener's context comes to.
pub(crate) struct Front {
    pub(crate) tls: SslContext,
    /// Lowest and highest version, as on the wire.
    pub(crate) versions: (i64, i64),
    pub(crate) suites: Vec<Suite>,
    /// How certificates of clients are checked for revocation; none if they are not, or no client is asked for one.
    pub(crate) checks: Option<Checks>,
    /// Own certificates with their issuers, for which responses are fetched to be stapled.
    stapled: Vec<Subject>,
    is_stapling: AtomicBool,
}

/// With what a [`Front`] is made.
pub(crate) struct Setup<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) credentials: Arc<[Credential]>,
    /// For clients' certificates.
    pub(crate) trusted: Option<&'a [X509]>,
    /// `TLS_SERVER_OCSP_STAPLING`: with what is fetched, or lies beside the chain.
    pub(crate) stapling: Option<Arc<Revocation>>,
    /// `TLS_REVOCATION_CHECKS` and the ways.
    pub(crate) checks: Option<Checks>,
    /// `TLS_REQUEST_PEER_AUTH`: 0, 1 (ask) or 2 (require).
    pub(crate) peer_auth: i64,
    pub(crate) versions: (i64, i64),
    pub(crate) suites: Vec<Suite>,
    /// As on the wire; empty for none.
    pub(crate) alpn: Vec<u8>,
    /// None: sessions are not resumed.
    pub(crate) session_ttl: Option<Duration>,
    /// The context's id.
    pub(crate) id: u64,
}

impl Front {
    pub(crate) fn new(setup: Setup<'_>) -> Result<Self, Error> {
        if setup.credentials.is_empty() {
            let what = "a listening socket needs a certificate (TLS_CERTIFICATE_CHAIN, TLS_PRIVATE_KEY)";
            return Err(Error::Brought(what.to_owned()));
        }
        let mut builder = SslContextBuilder::new(SslMethod::tls_server())?;
        builder.set_options(
            SslOptions::CIPHER_SERVER_PREFERENCE | SslOptions::NO_RENEGOTIATION | SslOptions::PRIORITIZE_CHACHA,
        );
        builder
            .set_mode(SslMode::RELEASE_BUFFERS | SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
        builder.set_read_ahead(true);
        super::client::limit_algorithms(&mut builder, setup.policy)?;
        ask_for_certificate(&mut builder, &setup)?;
        keep_sessions(&mut builder, &setup)?;
        let mut stapled = Vec::new();
        if let Some(revocation) = setup.stapling {
            let credentials = Arc::clone(&setup.credentials);
            let subjects: Vec<Option<Subject>> = credentials.iter().map(Credential::subject).collect();
            stapled.extend(subjects.iter().flatten().filter(|subject| subject.has_responder()).cloned());
            builder.set_status_callback(move |ssl| staple(ssl, &credentials, &subjects, &revocation))?;
        }
        let credentials = Arc::clone(&setup.credentials);
        builder.set_servername_callback(move |ssl, _alert| {
            let name = ssl.servername(NameType::HOST_NAME).map(str::to_owned);
            // Without a certificate the handshake fails by itself.
            let _refused = show(ssl, &credentials, name.as_deref());
            Ok(())
        });
        if !setup.alpn.is_empty() {
            let own = setup.alpn;
            builder.set_alpn_select_callback(move |_ssl, offered| {
                // Nothing in common: the connection goes on without, and TLS_ALPN is empty.
                let chosen = select_next_proto(&own, offered).ok_or(AlpnError::NOACK)?;
                // OpenSSL wants what the client sent.
                offered.windows(chosen.len()).find(|part| *part == chosen).ok_or(AlpnError::NOACK)
            });
        }
        let checks = setup.checks.filter(|_checks| setup.peer_auth != 0);
        let is_stapling = AtomicBool::new(false);
        Ok(Self { tls: builder.build(), versions: setup.versions, suites: setup.suites, checks, stapled, is_stapling })
    }

    /// Keeps what is stapled fresh, for as long as this is in use.
    pub(crate) fn keep_stapled(
        self: &Arc<Self>,
        revocation: &Arc<Revocation>,
        policy: &policy::Revocation,
        from: impl FnOnce() -> Origin,
    ) {
        if self.stapled.is_empty() || self.is_stapling.swap(true, Ordering::Relaxed) {
            return;
        }
        let (front, revocation, policy, from) = (Arc::downgrade(self), Arc::clone(revocation), policy.clone(), from());
        tokio::spawn(async move {
            const LOOK: Duration = Duration::from_secs(5);
            let mut told = HashSet::new();
            while let Some(stapled) = front.upgrade().map(|front| front.stapled.clone()) {
                for (index, subject) in stapled.iter().enumerate() {
                    match revocation.refresh_staple(subject, &policy, from.clone()).await {
                        Ok(()) => drop(told.remove(&index)),
                        // Once, until it goes well again.
                        Err(error) if told.insert(index) => warn!(error, "nothing fresh to staple"),
                        Err(_again) => {}
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }
}

/// Certificates of clients, against the program's own CAs only: anybody can have one of a public CA.
fn ask_for_certificate(builder: &mut SslContextBuilder, setup: &Setup<'_>) -> Result<(), Error> {
    if setup.peer_auth == 0 {
        builder.set_verify(SslVerifyMode::NONE);
        return Ok(());
    }
    let Some(trusted) = setup.trusted else {
        let what = "TLS_REQUEST_PEER_AUTH: clients' certificates need CAs (TLS_TRUSTED_PEER_CERTIFICATES)";
        return Err(Error::Brought(what.to_owned()));
    };
    let mut store = X509StoreBuilder::new()?;
    for certificate in trusted {
        store.add_cert(certificate.clone())?;
        builder.add_client_ca(certificate)?;
    }
    if setup.policy.trust.strict {
        store.set_flags(X509VerifyFlags::X509_STRICT)?;
    }
    builder.set_cert_store(store.build());
    builder.set_verify_depth(u32::try_from(setup.policy.trust.verify_depth).unwrap_or(u32::MAX));
    let mut mode = SslVerifyMode::PEER;
    if setup.peer_auth == 2 {
        mode |= SslVerifyMode::FAIL_IF_NO_PEER_CERT;
    }
    builder.set_verify_callback(mode, super::client::noting_failures);
    Ok(())
}

/// A resumed session would bring a client's certificate without verifying it: where one is asked for,
/// every handshake is a full one.
fn keep_sessions(builder: &mut SslContextBuilder, setup: &Setup<'_>) -> Result<(), Error> {
    let ttl = setup.session_ttl.filter(|_ttl| setup.peer_auth == 0);
    let Some(ttl) = ttl else {
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        builder.set_options(SslOptions::NO_TICKET);
        builder.set_num_tickets(0)?;
        return Ok(());
    };
    builder.set_session_cache_mode(SslSessionCacheMode::SERVER);
    if !setup.policy.sessions.tickets {
        // Those of TLS 1.3 are not ruled out by NO_TICKET.
        builder.set_num_tickets(0)?;
    }
    builder.set_session_cache_size(2048);
    // Tickets' keys are the context's own, and new with every Front.
    let id = openssl::hash::hash(MessageDigest::sha256(), &setup.id.to_ne_bytes())?;
    builder.set_session_id_context(&id)?;
    super::client::set_timeout(builder, ttl);
    Ok(())
}

/// Loads what fits the name that the client asks for, or else the first chain; one for each type of key.
fn show(ssl: &mut SslRef, credentials: &[Credential], name: Option<&str>) -> Result<(), openssl::error::ErrorStack> {
    let fitting: Vec<&Credential> = match name {
        Some(name) => credentials.iter().filter(|credential| covers(credential.leaf(), name)).collect(),
        None => Vec::new(),
    };
    let chosen: Vec<&Credential> = if fitting.is_empty() { credentials.iter().collect() } else { fitting };
    let mut types = Vec::new();
    for credential in chosen {
        // Of one type the first counts.
        if !types.contains(&credential.key_type()) {
            types.push(credential.key_type());
            credential.offer(ssl)?;
        }
    }
    Ok(())
}

/// Sends the response that was fetched for the chain that is shown, or else the one that was found beside it.
fn staple(
    ssl: &mut SslRef,
    credentials: &[Credential],
    subjects: &[Option<Subject>],
    revocation: &Revocation,
) -> Result<bool, openssl::error::ErrorStack> {
    let Some(shown) = ssl.certificate() else { return Ok(false) };
    let shown = credentials.iter().zip(subjects).find(|(credential, _subject)| **credential.leaf() == *shown);
    let Some((credential, subject)) = shown else { return Ok(false) };
    let fetched = subject.as_ref().and_then(|subject| revocation.staple(subject));
    match fetched.or_else(|| credential.ocsp.clone()) {
        Some(ocsp) => ssl.set_ocsp_status(&ocsp).map(|()| true),
        None => Ok(false),
    }
}

/// Shakes hands with a client, whose certificates, if it has shown one, must not be revoked, as far as is asked, which must be
/// known by `until`.
///
/// Cancellation closes the connection.
pub(crate) async fn accept(
    front: &Front,
    inquiry: Option<&Inquiry>,
    stream: TcpStream,
    until: Instant,
) -> Result<Secured, Error> {
    let mut ssl = Ssl::new(&front.tls)?;
    super::client::restrict(&mut ssl, front.versions, &front.suites)?;
    let attempt = Attempt::of_client();
    ssl.set_ex_data(*ATTEMPT, Arc::clone(&attempt));
    let mut stream = SslStream::new(ssl, PeerStream::new(stream))?;
    let accepted = Pin::new(&mut stream).accept().await;
    accepted.map_err(|error| super::client::failure(&error, &attempt, stream.ssl()))?;
    if stream.ssl().peer_certificate().is_some() && stream.ssl().verify_result() != X509VerifyResult::OK {
        return Err(Error::Certificate("the client was not verified".to_owned()));
    }
    let chain = attempt.finish(stream.ssl());
    if let (Some(inquiry), Some(_shown)) = (inquiry, stream.ssl().peer_certificate()) {
        inquiry.check(&chain, None, until).await?;
    }
    Ok(Secured { stream, chain })
}
