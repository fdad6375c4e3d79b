//! Legs to applications' listeners, inside the host.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use ssa_common::limits::LEG_PREFIX;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{inbound::Inbound, listener::Listener};
use crate::{connection::Error, dial, netns::AnnouncedLeg};

/// Longest time for which an application's listener may have no room for one more.
const LEG_LIMIT: Duration = Duration::from_secs(30);
/// Most ports that are tried for one leg.
const LEG_TRIES: u32 = 16;

/// Connects to an application's listener at `local`, as the socket `id` that comes out of it.
///
/// Errors: [`Error::Dial`], [`Error::Kernel`]. Cancellation closes the socket and withdraws the
/// announcement.
pub(super) async fn connect(
    inbound: &Inbound,
    listener: &Listener,
    id: u64,
    local: SocketAddr,
) -> Result<(TcpStream, AnnouncedLeg), Error> {
    let failed = |source| Error::Dial(dial::Error::Dial { to: local, source });
    let mut tries = 0;
    loop {
        tries += 1;
        let socket = listener.namespace.make(move || bound_leg(local)).await.map_err(failed)?;
        let source = socket.local_addr().map_err(failed)?.as_socket();
        let source = source.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let announced = listener.namespace.announce(source, local, id)?;
        inbound.accepted.has_leg(id, source, local);
        let connected = TcpSocket::from_std_stream(socket.into()).connect(local);
        match timeout(LEG_LIMIT, connected).await {
            Ok(Ok(leg)) => return Ok((leg, announced)),
            // A connection that has just ended still has these very addresses.
            Ok(Err(error)) if error.kind() == io::ErrorKind::AddrNotAvailable && tries < LEG_TRIES => {}
            Ok(Err(error)) => return Err(failed(error)),
            Err(_elapsed) => return Err(dial::Error::DialTimeout { to: local, limit: LEG_LIMIT }.into()),
        }
    }
}

/// Makes a socket that is bound first, so that its whole 4-tuple is known before it connects. The connection is reset
/// when it is closed, until the relay says otherwise.
fn bound_leg(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)?;
    bind(&socket, to.ip())?;
    Ok(socket)
}

/// Binds a leg to a loopback address. One address has about 28,000 ports, each lost for a minute when its
/// connection ends. IPv4 has [`LEG_PREFIX`] to choose from. IPv6 has one loopback address: there a port is
/// named, as only so the kernel gives those of ended connections out again (after a second, `tcp_tw_reuse`).
fn bind(socket: &Socket, to: IpAddr) -> io::Result<()> {
    let mut random = [0; 2];
    openssl::rand::rand_bytes(&mut random)?;
    if to.is_ipv4() {
        let from = Ipv4Addr::new(LEG_PREFIX[0], LEG_PREFIX[1], random[0], random[1]);
        return socket.bind(&SocketAddr::new(from.into(), 0).into());
    }
    let from = |port| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port).into();
    let (first, last) = local_ports();
    let port = first + u16::from_ne_bytes(random) % (last - first).saturating_add(1);
    socket.set_reuse_address(true)?;
    match socket.bind(&from(port)) {
        // It is a listener's, or a socket's that does not share.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => socket.bind(&from(0)),
        done => done,
    }
}

/// First and last of the ports that this thread's namespace gives to sockets that ask for none (`ip_local_port_range`,
/// ip(7)).
fn local_ports() -> (u16, u16) {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = range.split_whitespace().filter_map(|port| port.parse().ok());
    match (ports.next(), ports.next()) {
        (Some(first), Some(last)) if first <= last => (first, last),
        _ => (32768, 60999),
    }
}
