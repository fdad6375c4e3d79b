//! Server's side of a handshake: the certificate that is shown, and the clients that may come in.

use std::{pin::Pin, sync::Arc, time::Duration};

use openssl::{
    error::ErrorStack,
    hash::{MessageDigest, hash},
    ssl::{
        AlpnError, NameType, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef,
        SslSessionCacheMode, SslVerifyMode, select_next_proto,
    },
    x509::{X509, X509Ref, X509VerifyResult, store::X509StoreBuilder, verify::X509VerifyFlags},
};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::{
    certificate::covers,
    cipher::Suite,
    config::restrict,
    context::{limit_algorithms, set_timeout},
    credentials::Credential,
    error::{Error, Failed, failure, noting_failures},
    handshake::{HANDSHAKE, Handshake},
    parameters::Parameters,
    peer::PeerStream,
    secured::Secured,
};

/// Configuration of a server's handshakes.
pub(crate) struct ServerConfig {
    /// `SSL_CTX` with its callbacks and the keys of its session tickets.
    pub(crate) tls: SslContext,
    /// Lowest and highest version, as on the wire: 0x0303 or 0x0304.
    pub(crate) versions: (i64, i64),
    /// Cipher suites of TLS 1.2 and 1.3, best first.
    pub(crate) suites: Vec<Suite>,
}

/// Looks up the OCSP response in DER that was fetched for a certificate of the machine's own; none if none is at hand.
/// Must not block.
pub(crate) type Staple = Arc<dyn Fn(&X509Ref) -> Option<Arc<[u8]>> + Send + Sync>;

/// Parameters of a [`ServerConfig`].
pub(crate) struct ServerParameters<'a> {
    /// Trust and algorithms of the policy.
    pub(crate) parameters: &'a Parameters,
    /// Own certificates with keys; at least one.
    pub(crate) credentials: Arc<[Credential]>,
    /// CAs for clients' certificates; must be there if `peer_auth` is not 0.
    pub(crate) trusted: Option<&'a [X509]>,
    /// Source of responses to staple (`TLS_SERVER_OCSP_STAPLING`); none: nothing is stapled.
    pub(crate) staple: Option<Staple>,
    /// Value of `TLS_REQUEST_PEER_AUTH`: 0, 1 (ask) or 2 (require).
    pub(crate) peer_auth: i64,
    /// Lowest and highest version, as on the wire: 0x0303 or 0x0304.
    pub(crate) versions: (i64, i64),
    /// Cipher suites of TLS 1.2 and 1.3, best first.
    pub(crate) suites: Vec<Suite>,
    /// Application protocols to take (ALPN), best first, as on the wire; empty for none.
    pub(crate) alpn: Vec<u8>,
    /// Time for which sessions may be resumed; none: they are not.
    pub(crate) session_ttl: Option<Duration>,
    /// Id of the TLS context, by which OpenSSL tells its sessions from others' (`SSL_CTX_set_session_id_context(3)`).
    pub(crate) id: u64,
}

impl ServerConfig {
    /// Makes the `SSL_CTX`. Errors: [`Error::NoCertificate`], [`Error::NoClientCas`], and what OpenSSL refuses.
    pub(crate) fn new(setup: ServerParameters<'_>) -> Result<Self, Error> {
        if setup.credentials.is_empty() {
            return Err(Error::NoCertificate);
        }
        let mut builder = SslContextBuilder::new(SslMethod::tls_server())?;
        builder.set_options(
            SslOptions::CIPHER_SERVER_PREFERENCE | SslOptions::NO_RENEGOTIATION | SslOptions::PRIORITIZE_CHACHA,
        );
        builder
            .set_mode(SslMode::RELEASE_BUFFERS | SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
        builder.set_read_ahead(true);
        limit_algorithms(&mut builder, setup.parameters)?;
        ask_for_certificate(&mut builder, &setup)?;
        keep_sessions(&mut builder, &setup)?;
        if let Some(staple) = setup.staple {
            let credentials = Arc::clone(&setup.credentials);
            builder.set_status_callback(move |ssl| send_staple(ssl, &credentials, &staple))?;
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
        Ok(Self { tls: builder.build(), versions: setup.versions, suites: setup.suites })
    }
}

/// Sets whether clients are asked for certificates, and verifies them against the application's own CAs only: anybody
/// can have a certificate of a public CA.
fn ask_for_certificate(builder: &mut SslContextBuilder, setup: &ServerParameters<'_>) -> Result<(), Error> {
    if setup.peer_auth == 0 {
        builder.set_verify(SslVerifyMode::NONE);
        return Ok(());
    }
    let Some(trusted) = setup.trusted else {
        return Err(Error::NoClientCas);
    };
    let mut store = X509StoreBuilder::new()?;
    for certificate in trusted {
        store.add_cert(certificate.clone())?;
        builder.add_client_ca(certificate)?;
    }
    if setup.parameters.strict {
        store.set_flags(X509VerifyFlags::X509_STRICT)?;
    }
    builder.set_cert_store(store.build());
    builder.set_verify_depth(setup.parameters.verify_depth);
    let mut mode = SslVerifyMode::PEER;
    if setup.peer_auth == 2 {
        mode |= SslVerifyMode::FAIL_IF_NO_PEER_CERT;
    }
    builder.set_verify_callback(mode, noting_failures);
    Ok(())
}

/// Sets the caching of sessions. Where a client's certificate is asked for there is none: a resumed session would bring
/// the certificate without verifying it, so every handshake is a full one.
fn keep_sessions(builder: &mut SslContextBuilder, setup: &ServerParameters<'_>) -> Result<(), Error> {
    let ttl = setup.session_ttl.filter(|_ttl| setup.peer_auth == 0);
    let Some(ttl) = ttl else {
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        builder.set_options(SslOptions::NO_TICKET);
        builder.set_num_tickets(0)?;
        return Ok(());
    };
    builder.set_session_cache_mode(SslSessionCacheMode::SERVER);
    if !setup.parameters.tickets {
        // Those of TLS 1.3 are not ruled out by NO_TICKET.
        builder.set_num_tickets(0)?;
    }
    builder.set_session_cache_size(2048);
    // Tickets' keys are the context's own, and new with every ServerConfig.
    let id = hash(MessageDigest::sha256(), &setup.id.to_ne_bytes())?;
    builder.set_session_id_context(&id)?;
    set_timeout(builder, ttl);
    Ok(())
}

/// Loads the chains that fit the name that the client asks for, or else all; of one type of key, the first.
fn show(ssl: &mut SslRef, credentials: &[Credential], name: Option<&str>) -> Result<(), ErrorStack> {
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

/// Sends the response that was fetched for the certificate that is shown, or else the one that was found beside it.
fn send_staple(ssl: &mut SslRef, credentials: &[Credential], staple: &Staple) -> Result<bool, ErrorStack> {
    let Some(shown) = ssl.certificate() else { return Ok(false) };
    let Some(credential) = credentials.iter().find(|credential| **credential.leaf() == *shown) else {
        return Ok(false);
    };
    match staple(credential.leaf()).or_else(|| credential.ocsp.clone()) {
        Some(ocsp) => ssl.set_ocsp_status(&ocsp).map(|()| true),
        None => Ok(false),
    }
}

/// Shakes hands with a client. If it has shown a certificate, `check` is asked whether the verified chain may be used.
///
/// Errors: [`Failed::Tls`] of the handshake or its settings, [`Failed::Check`] of the caller's check. Cancellation
/// closes the connection. The caller sets the time limit.
pub(crate) async fn accept<E, F: Future<Output = Result<(), E>>>(
    config: &ServerConfig,
    stream: TcpStream,
    check: impl FnOnce(Arc<[X509]>) -> F,
) -> Result<Secured, Failed<E>> {
    let mut ssl = Ssl::new(&config.tls)?;
    restrict(&mut ssl, config.versions, &config.suites)?;
    let handshake = Handshake::of_server();
    ssl.set_ex_data(*HANDSHAKE, Arc::clone(&handshake));
    let mut stream = SslStream::new(ssl, PeerStream::new(stream))?;
    let accepted = Pin::new(&mut stream).accept().await;
    accepted.map_err(|error| failure(&error, &handshake, stream.ssl()))?;
    if stream.ssl().peer_certificate().is_some() && stream.ssl().verify_result() != X509VerifyResult::OK {
        return Err(Error::Certificate("the client was not verified".to_owned()).into());
    }
    let chain = handshake.finish(stream.ssl());
    if stream.ssl().peer_certificate().is_some() {
        check(Arc::clone(&chain)).await.map_err(Failed::Check)?;
    }
    Ok(Secured { stream, chain })
}
