//! Handshakes with revocation checked before anybody is told of the connection.

use std::{sync::Arc, time::Instant};

use tokio::net::TcpStream;

use super::{check::Check, error::Error};
use crate::tls::{self, ChainChecks, ClientConfig, Failed, Secured, ServerConfig, ServerName};

/// Shakes hands with a peer that must prove to be `name`. Whether its certificates are revoked must be known by
/// `until`, if there is a `check`.
///
/// Errors: as of [`tls::connect`], [`Failed::Check`] for a chain that may not be used. Cancellation closes the
/// connection.
pub(crate) async fn connect(
    config: &ClientConfig,
    check: Option<&Check>,
    stream: TcpStream,
    name: &ServerName,
    until: Instant,
) -> Result<Secured, Failed<Error>> {
    let checks = ChainChecks {
        wants_staples: check.is_some(),
        may_resume: |chain: &[_]| check.is_none_or(|check| check.needs_no_staple(chain)),
        check: async |chain: Arc<[_]>, staples: Option<_>| match check {
            Some(check) => check.check(&chain, staples.as_ref(), until).await,
            None => Ok(()),
        },
    };
    tls::connect(config, stream, name, checks).await
}

/// Shakes hands with a client. Whether its certificates are revoked, if it has shown any, must be known by `until`, if
/// there is a `check`.
///
/// Errors: as of [`tls::accept`], [`Failed::Check`] for a chain that may not be used. Cancellation closes the
/// connection.
pub(crate) async fn accept(
    config: &ServerConfig,
    check: Option<&Check>,
    stream: TcpStream,
    until: Instant,
) -> Result<Secured, Failed<Error>> {
    let checked = async |chain: Arc<[_]>| match check {
        Some(check) => check.check(&chain, None, until).await,
        None => Ok(()),
    };
    tls::accept(config, stream, checked).await
}
