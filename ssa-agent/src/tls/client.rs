//! A client's handshake, whose only way out is a verified peer.

use std::{pin::Pin, sync::Arc};

use openssl::{
    ssl::Ssl,
    x509::{X509, X509VerifyResult, verify::X509CheckFlags},
};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::{
    config::{ClientConfig, restrict},
    error::{Error, Failed, failure},
    handshake::{HANDSHAKE, Handshake, ask_for_staples, stop_watching},
    peer::PeerStream,
    secured::Secured,
    server_name::ServerName,
    staples::Staples,
};

/// Checks that the caller of [`connect`] makes on a verified chain, before the peer may be used.
pub(crate) struct ChainChecks<R, C> {
    /// Whether the peer is asked to staple OCSP responses.
    pub(crate) wants_staples: bool,
    /// Decides whether a cached session may be resumed, by the chain that was verified when it was made, leaf first.
    pub(crate) may_resume: R,
    /// Checks the chain that was verified, leaf first, and the OCSP responses stapled to it; none for a resumed
    /// session, or if none were asked for.
    pub(crate) check: C,
}

/// Shakes hands with a peer that must prove to be `name`, and whose chain passes `checks`.
///
/// Errors: [`Failed::Tls`] of the handshake or its settings, [`Failed::Check`] of the caller's check. Cancellation
/// closes the connection. The caller sets the time limit.
pub(crate) async fn connect<E, F: Future<Output = Result<(), E>>>(
    config: &ClientConfig,
    stream: TcpStream,
    name: &ServerName,
    checks: ChainChecks<impl FnOnce(&[X509]) -> bool, impl FnOnce(Arc<[X509]>, Option<Staples>) -> F>,
) -> Result<Secured, Failed<E>> {
    let mut ssl = Ssl::new(&config.tls)?;
    restrict(&mut ssl, config.versions, &config.suites)?;
    for credential in config.credentials.iter() {
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
    if !config.alpn.is_empty() {
        ssl.set_alpn_protos(&config.alpn)?;
    }
    let handshake = Handshake::begin(name.clone(), config, &mut ssl, checks.may_resume);
    ssl.set_ex_data(*HANDSHAKE, Arc::clone(&handshake));
    if checks.wants_staples {
        ask_for_staples(&mut ssl)?;
    }
    let mut stream = SslStream::new(ssl, PeerStream::new(stream))?;
    Pin::new(&mut stream).connect().await.map_err(|error| failure(&error, &handshake, stream.ssl()))?;
    // OpenSSL has checked all of this; a handshake that got here without is a bug that must not pass.
    let verified = stream.ssl().verify_result() == X509VerifyResult::OK;
    if !verified || stream.ssl().peer_certificate().is_none() {
        return Err(Error::Certificate("the peer was not verified".to_owned()).into());
    }
    let chain = handshake.finish(stream.ssl());
    let mut staples = None;
    if checks.wants_staples {
        stop_watching(stream.ssl());
        let fresh = !stream.ssl().session_reused();
        staples = fresh.then(|| Staples::taken(stream.ssl(), &handshake.staples));
    }
    (checks.check)(Arc::clone(&chain), staples).await.map_err(Failed::Check)?;
    Ok(Secured { stream, chain })
}
