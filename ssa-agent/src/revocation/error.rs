//! Errors of peers that are refused for their certificates' status.

use super::answer::Source;

/// Reason why a chain may not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A certificate is revoked.
    #[error("certificate revoked{when}: {whose} (says {by})")]
    Revoked {
        /// Subject and issuer of the certificate.
        whose: String,
        /// Time and reason of the revocation, in words; may be empty.
        when: String,
        /// Source of the answer.
        by: Source,
    },
    /// No source says that a certificate is not revoked, and the policy wants to know.
    #[error("revocation can't be checked ({}): {whose}", tried.join("; "))]
    Unanswered {
        /// Subject and issuer of the certificate.
        whose: String,
        /// Reason of each source that was tried.
        tried: Vec<String>,
    },
    /// The leaf has the TLS feature `status_request` (RFC 7633), and came without a good staple.
    #[error("the certificate demands a stapled OCSP response ({why}): {whose}")]
    NotStapled {
        /// Subject and issuer of the certificate.
        whose: String,
        /// Reason why there is no good staple.
        why: String,
    },
    /// The peer has no chain that could be checked.
    #[error("the peer has no chain to check")]
    NoChain,
    /// A certificate could not be read.
    #[error("OpenSSL refused the certificate: {0}")]
    Certificate(#[from] openssl::error::ErrorStack),
}
