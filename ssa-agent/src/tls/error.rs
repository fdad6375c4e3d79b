//! Errors of TLS connections, in words that `TLS_ERROR` can give.

use std::{io, path::PathBuf};

use openssl::{
    error::ErrorStack,
    ssl::SslRef,
    x509::{X509StoreContext, X509StoreContextRef, X509VerifyResult},
};

use super::{
    certificate,
    handshake::{HANDSHAKE, Handshake},
    server_name,
};

/// Failure of a TLS handshake, by the peer's fault or the settings'.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The peer's certificate was refused; the text says which and why.
    #[error("{0}")]
    Certificate(String),
    /// The handshake failed before or after the certificate.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// The handshake failed, and the peer has sent no ServerHello: it may not speak TLS at all.
    #[error("TLS handshake failed: {0}")]
    NoTls(String),
    /// The host name can't be verified.
    #[error(transparent)]
    Name(#[from] server_name::Invalid),
    /// OpenSSL refused the settings.
    #[error("OpenSSL refused the settings: {0}")]
    Settings(#[from] ErrorStack),
    /// A file or directory of trust anchors can't be used.
    #[error("{}: {what}", path.display())]
    TrustAnchors {
        /// File or directory of the configuration.
        path: PathBuf,
        /// Reason, in words.
        what: String,
    },
    /// Versions and cipher suites leave nothing to offer.
    #[error("no cipher suite is left for the versions that are allowed")]
    NoCipherSuite,
    /// A server has no certificate.
    #[error("a listening socket needs a certificate (TLS_CERTIFICATE_CHAIN, TLS_PRIVATE_KEY)")]
    NoCertificate,
    /// A server asks for client certificates, and has no CAs to verify them with.
    #[error("TLS_REQUEST_PEER_AUTH: clients' certificates need CAs (TLS_TRUSTED_PEER_CERTIFICATES)")]
    NoClientCas,
}

/// Failure of [`super::client::connect`] or [`super::server::accept`]: TLS itself, or the caller's check of the
/// verified chain.
#[derive(Debug)]
pub(crate) enum Failed<E> {
    /// The caller's check has refused the chain.
    Check(E),
    /// The handshake failed, or its settings.
    Tls(Error),
}

impl<E, T: Into<Error>> From<T> for Failed<E> {
    fn from(error: T) -> Self {
        Self::Tls(error.into())
    }
}

/// Verify callback (`SSL_CTX_set_verify(3)`) that leaves OpenSSL's verdict as it is, and keeps the reason of a refusal
/// in the [`Handshake`].
pub(super) fn noting_failures(valid: bool, store: &mut X509StoreContextRef) -> bool {
    if !valid {
        note_failure(store);
    }
    valid
}

/// Keeps the words for a certificate that OpenSSL's verification is about to refuse.
fn note_failure(store: &mut X509StoreContextRef) {
    let Ok(index) = X509StoreContext::ssl_idx() else { return };
    let text = certificate::refusal(store.error(), store.current_cert());
    if let Some(handshake) = store.ex_data(index).and_then(|ssl| ssl.ex_data(*HANDSHAKE)) {
        handshake.note(text);
    }
}

/// Translates the error of a handshake that OpenSSL gave up, with the reason that [`noting_failures`] has kept.
pub(super) fn failure(error: &openssl::ssl::Error, handshake: &Handshake, ssl: &SslRef) -> Error {
    // There from the first answer of TLS on.
    let mut random = [0; 32];
    ssl.server_random(&mut random);
    let failed = if random == [0; 32] { Error::NoTls } else { Error::Handshake };
    if ssl.verify_result() != X509VerifyResult::OK
        && let Some(text) = handshake.failure()
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
