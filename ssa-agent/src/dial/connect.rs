//! TCP connections to where an application connects: an address, or each address of a name, in one limit of time.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ssa_common::event::Held;
use tokio::{net::TcpStream, time::timeout};

use super::{
    error::Error,
    resolve::{self, Families},
    socket::{SocketSetup, dial},
};
use crate::{kernel::Errno, netns::Namespace};

/// Connects to an address, as the application's socket is set up.
///
/// Errors: [`Error::Dial`], [`Error::DialTimeout`] after `limit`. Cancellation closes the socket.
pub(crate) async fn address(
    namespace: &Namespace,
    to: SocketAddr,
    setup: SocketSetup,
    limit: Duration,
) -> Result<TcpStream, Error> {
    match timeout(limit, dial(namespace, to, setup)).await {
        Ok(dialled) => dialled.map_err(|source| Error::Dial { to, source }),
        Err(_elapsed) => Err(Error::DialTimeout { to, limit }),
    }
}

/// Connects to the first address that answers, of the host name that a held connect has; all in the one `limit`.
///
/// Errors: [`Error::Resolve`], [`Error::ResolveTimeout`], [`Error::DialAll`]. Cancellation closes the sockets.
pub(crate) async fn name(
    namespace: &Arc<Namespace>,
    held: &Held,
    port: u16,
    setup: SocketSetup,
    limit: Duration,
) -> Result<TcpStream, Error> {
    let began = Instant::now();
    let host = held.hostname.as_str().unwrap_or_default().to_owned();
    let v4 = Ipv6Addr::from(held.orig_dst.addr).to_canonical().is_ipv4();
    let families = if v4 { Families::V4 } else { Families::Both };
    let resolved = async {
        let files = resolve::Files::read(held.caller).await?;
        resolve::addresses(namespace, &files, setup.owner, &host, families).await
    };
    let addresses = match timeout(limit, resolved).await {
        Ok(found) => found.map_err(|source| Error::Resolve { host: host.clone(), source })?,
        Err(_elapsed) => return Err(Error::ResolveTimeout { host, limit }),
    };
    let mut tried = Vec::new();
    let mut errno = Errno::HostUnreachable;
    for (left, addr) in (1..=addresses.len() as u32).rev().zip(addresses) {
        let share = limit.saturating_sub(began.elapsed()) / left;
        match address(namespace, SocketAddr::new(addr, port), setup, share).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                errno = error.errno();
                tried.push(error.text());
            }
        }
    }
    Err(Error::DialAll { host, tried: tried.join("; "), errno })
}
