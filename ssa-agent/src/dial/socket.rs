//! The socket of a peer leg: made in the application's network namespace, bound as the application's socket
//! is, and with its options.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Socket, Type};
use ssa_common::{
    peer_option::{ABSENT, Family, PEER_OPTIONS, SLOTS},
    socket::Endpoint,
};
use tokio::net::{TcpSocket, TcpStream};
use tracing::debug;

use crate::{
    netns::Namespace,
    sys::{on_behalf::SocketOwner, sockopt},
};

/// Setup of an application's socket, below TLS.
#[derive(Clone, Copy)]
pub(crate) struct SocketSetup {
    /// Cgroup and user whose limits hold for the connection.
    pub(crate) owner: SocketOwner,
    /// Address that the socket is bound to; unspecified if it is not.
    pub(crate) bound: Endpoint,
    /// Index of the interface that the socket is bound to; zero for none.
    pub(crate) interface: u32,
    /// Values of its options, by slot of [`PEER_OPTIONS`]; [`ABSENT`] for what it does not have.
    pub(crate) options: [i32; SLOTS],
}

/// Connects to the peer, without a limit of time but the kernel's.
///
/// Errors: as of connect(2), and of making the socket. Cancellation closes the socket.
pub(crate) async fn dial(namespace: &Namespace, to: SocketAddr, setup: SocketSetup) -> io::Result<TcpStream> {
    let to = scoped(to, setup.interface);
    let socket = namespace.socket(setup.owner, Domain::for_address(to), Type::STREAM).await?;
    set_up(&socket, to, &setup)?;
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

/// Adds the interface to a link-local address, which means something on an interface only.
fn scoped(to: SocketAddr, interface: u32) -> SocketAddr {
    match to {
        SocketAddr::V6(mut v6) if v6.ip().is_unicast_link_local() => {
            v6.set_scope_id(interface);
            SocketAddr::V6(v6)
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => to,
    }
}

/// Sets up a socket as the application's is. The connection is reset when it is closed, until the relay says otherwise.
fn set_up(socket: &Socket, to: SocketAddr, setup: &SocketSetup) -> io::Result<()> {
    let own = options(socket, to);
    for (slot, value) in setup.options.into_iter().enumerate() {
        // What the application has left alone is left alone here: a buffer's size that is set stops growing.
        if value != ABSENT && value != own[slot] {
            set(socket, to, slot, value);
        }
    }
    if own[NODELAY] == setup.options[NODELAY] {
        // The application's own socket has gathered small writes already.
        socket.set_tcp_nodelay(true)?;
    }
    socket.set_linger(Some(Duration::ZERO))?;
    if setup.interface != 0 {
        sockopt::bind_to_interface(socket, setup.interface)?;
    }
    let from = SocketAddr::from(setup.bound).ip();
    if !from.is_unspecified() && from.is_ipv4() == to.is_ipv4() {
        socket.bind(&scoped(SocketAddr::new(from, 0), setup.interface).into())?;
    }
    Ok(())
}

/// Slot of `TCP_NODELAY`.
const NODELAY: usize = 4;

/// Values of a fresh socket's options, by slot.
fn options(socket: &Socket, to: SocketAddr) -> [i32; SLOTS] {
    let mut values = [ABSENT; SLOTS];
    for (value, option) in values.iter_mut().zip(PEER_OPTIONS) {
        if is_of(option.family, to) {
            *value = sockopt::int(socket, option.level, option.number).unwrap_or(ABSENT);
        }
    }
    values
}

/// Sets an option by slot. The kernel has let the application set it; if it is refused here, the connection does
/// without, which is logged.
pub(super) fn set(socket: &impl std::os::fd::AsRawFd, to: SocketAddr, slot: usize, value: i32) {
    let Some(option) = PEER_OPTIONS.get(slot) else { return };
    if !is_of(option.family, to) {
        return;
    }
    // Sizes of buffers are read as twice what was set (socket(7)); the limits were the application's.
    let (number, value) = match option.number {
        libc::SO_SNDBUF if option.level == libc::SOL_SOCKET => (libc::SO_SNDBUFFORCE, value / 2),
        libc::SO_RCVBUF if option.level == libc::SOL_SOCKET => (libc::SO_RCVBUFFORCE, value / 2),
        number => (number, value),
    };
    if let Err(error) = sockopt::set_int(socket, option.level, number, value) {
        debug!(option = option.name, value, %error, "an option of the application's does not hold on the peer leg");
    }
}

fn is_of(family: Family, to: SocketAddr) -> bool {
    match family {
        Family::Any => true,
        Family::V4 => to.is_ipv4(),
        Family::V6 => to.is_ipv6(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_of_nodelay_is_right() {
        assert_eq!(PEER_OPTIONS[NODELAY].name, "TCP_NODELAY");
    }
}
