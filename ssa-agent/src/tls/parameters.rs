//! Parameters that an administrator sets for every TLS connection of a policy, as OpenSSL needs them.

use std::path::PathBuf;

/// Trust and algorithms of one policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parameters {
    /// Trust anchors, unless an application brings CAs of its own.
    pub(crate) trust: TrustAnchors,
    /// Most intermediates between a trust anchor and a leaf (`SSL_CTX_set_verify_depth(3)`).
    pub(crate) verify_depth: u32,
    /// Whether malformed chains are refused that OpenSSL would take (`X509_V_FLAG_X509_STRICT`).
    pub(crate) strict: bool,
    /// Groups for key exchange, best first; empty for OpenSSL's own list.
    pub(crate) groups: Vec<String>,
    /// Signature algorithms, best first; empty for OpenSSL's own list.
    pub(crate) signature_algorithms: Vec<String>,
    /// Whether session tickets are sent and kept (RFC 5077; TLS 1.3 has no other sessions).
    pub(crate) tickets: bool,
}

/// Places of trusted certificates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TrustAnchors {
    /// Whether the system's store is trusted (`X509_STORE_set_default_paths(3)`).
    pub(crate) system: bool,
    /// PEM files, read when a context is made.
    pub(crate) files: Vec<PathBuf>,
    /// Hashed directories (`c_rehash(1)`), read at each handshake.
    pub(crate) directories: Vec<PathBuf>,
}
