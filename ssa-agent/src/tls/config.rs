//! Configuration of one connection's handshake beside its `SSL_CTX`: versions, suites, ALPN, sessions.

use std::{sync::Arc, time::Duration};

use openssl::ssl::{Ssl, SslContext, SslVersion};
use ssa_common::uapi;

use super::{
    cipher::{self, Suite},
    credentials::Credential,
    error::Error,
    session::Sessions,
};

/// Configuration of a client's handshake.
pub(crate) struct ClientConfig {
    /// `SSL_CTX` with trust anchors and allowed algorithms.
    pub(crate) tls: SslContext,
    /// Own certificates with keys, for peers that ask for one.
    pub(crate) credentials: Arc<[Credential]>,
    /// Cache of sessions to resume, where new ones go; none if sessions are not to be reused.
    pub(crate) sessions: Option<Arc<Sessions>>,
    /// Lowest and highest version, as on the wire: 0x0303 or 0x0304.
    pub(crate) versions: (i64, i64),
    /// Cipher suites of TLS 1.2 and 1.3, best first.
    pub(crate) suites: Vec<Suite>,
    /// Application protocols to offer (ALPN), as on the wire (RFC 7301): each with its length before it; empty for
    /// none.
    pub(crate) alpn: Vec<u8>,
    /// Time for which a session may be resumed, from when it was made.
    pub(crate) session_ttl: Duration,
    /// Whether sessions of TLS 1.3, which are always tickets, may be kept.
    pub(crate) tickets: bool,
}

/// Limits an `Ssl` to versions and cipher suites. A version without suites is not offered. Errors:
/// [`Error::NoCipherSuite`] if no version is left, and what OpenSSL refuses.
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
        return Err(Error::NoCipherSuite);
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
