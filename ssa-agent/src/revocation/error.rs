//! Why a peer is refused for its certificates' status.

use super::answer::Source;

/// A chain that may not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A certificate is revoked.
    #[error("certificate revoked{when}: {whose} (says {by})")]
    Revoked { whose: String, when: String, by: Source },
    /// Nobody says that a certificate is not revoked, and the policy wants to know.
    #[error("revocation can't be checked ({}): {whose}", tried.join("; "))]
    Unanswered { whose: String, tried: Vec<String> },
    /// The leaf has the TLS feature `status_request` (RFC 7633), and came without a good staple.
    #[error("the certificate demands a stapled OCSP response ({why}): {whose}")]
    NotStapled { whose: String, why: String },
    /// There is nothing to check.
    #[error("the peer has no chain to check")]
    NoChain,
    /// A certificate could not be read.
    #[error("OpenSSL refused the certificate: {0}")]
    Certificate(#[from] openssl::error::ErrorStack),
}
