//! TLS connection after its handshake, and what it has negotiated.

use std::sync::Arc;

use openssl::{
    hash::MessageDigest,
    ssl::{NameType, SslVersion},
    x509::X509,
};
use tokio_openssl::SslStream;

use super::{certificate, peer::PeerStream};

/// A TLS connection after its handshake. Only [`super::client::connect`] and [`super::server::accept`] make one, after
/// all checks.
pub(crate) struct Secured {
    /// Connection whose records OpenSSL reads and writes.
    pub(crate) stream: SslStream<PeerStream>,
    /// Chain that was verified, leaf first: now, or when the session was made. Empty for a client that has shown no
    /// certificate.
    pub(super) chain: Arc<[X509]>,
}

impl Secured {
    /// Name that OpenSSL has for the negotiated cipher suite.
    pub(crate) fn cipher(&self) -> &'static str {
        self.stream.ssl().current_cipher().map_or("", |cipher| cipher.name())
    }

    /// Negotiated version as on the wire: 0x0303 or 0x0304.
    pub(crate) fn version(&self) -> i64 {
        match self.stream.ssl().version2() {
            Some(SslVersion::TLS1_3) => 0x0304,
            Some(_) | None => 0x0303,
        }
    }

    /// Subject of the peer's certificate as RFC 2253 writes it, at most 400 bytes, control characters replaced. Empty
    /// without a certificate.
    pub(crate) fn identity(&self) -> String {
        let mut text =
            self.chain.first().map(|leaf| certificate::distinguished_name(leaf.subject_name())).unwrap_or_default();
        text = text.replace(|letter: char| letter.is_control(), " ");
        while text.len() > IDENTITY_BYTES {
            text.pop();
        }
        text
    }

    /// Application protocol that was negotiated; none if there is none.
    pub(crate) fn alpn(&self) -> Option<&str> {
        self.stream.ssl().selected_alpn_protocol().and_then(|protocol| std::str::from_utf8(protocol).ok())
    }

    /// Verified chain, leaf first; empty for a client that has shown no certificate.
    pub(crate) fn chain(&self) -> &[X509] {
        &self.chain
    }

    /// SHA-256 of the peer's certificate in DER; zero without one.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let digest = self.chain.first().and_then(|leaf| leaf.digest(MessageDigest::sha256()).ok());
        digest.and_then(|digest| digest.as_ref().try_into().ok()).unwrap_or_default()
    }

    /// Server name that the client asked for (RFC 6066, section 3).
    pub(crate) fn sni(&self) -> Option<&str> {
        self.stream.ssl().servername(NameType::HOST_NAME)
    }

    /// Resumption of an earlier session (RFC 8446, section 2.2); false for a full handshake.
    pub(crate) fn resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }
}

/// Longest subject that is shown, in bytes.
const IDENTITY_BYTES: usize = 400;
