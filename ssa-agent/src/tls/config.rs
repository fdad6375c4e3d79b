//! What a connection is made with, beside its context.

use std::{sync::Arc, time::Duration};

use openssl::ssl::{Ssl, SslContext, SslVersion};
use ssa_common::uapi;

use super::{
    cipher::{self, Suite},
    credentials::Credential,
    error::Error,
    session::Sessions,
};

/// With what a client connects.
pub(crate) struct ClientConfig {
    /// The context: whom it trusts, and with which algorithms.
    pub(crate) tls: SslContext,
    /// Own certificates, for peers that ask for one.
    pub(crate) credentials: Arc<[Credential]>,
    /// Sessions to resume, and where new ones go; none if they are not to be reused.
    pub(crate) sessions: Option<Arc<Sessions>>,
    /// Lowest and highest version, as on the wire.
    pub(crate) versions: (i64, i64),
    /// Cipher suites of both generations, best first.
    pub(crate) suites: Vec<Suite>,
    /// Application protocols to offer, as on the wire (RFC 7301); empty for none.
    pub(crate) alpn: Vec<u8>,
    /// How long a session may be resumed.
    pub(crate) session_ttl: Duration,
    /// Whether sessions of TLS 1.3, which are always tickets, may be kept.
    pub(crate) tickets: bool,
}

/// Limits a connection to versions and cipher suites. A version without suites is not offered.
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
