//! The phase of a TLS socket, as `TLS_STATE` shows it.

use crate::code;

/// Phase of a TLS socket's life, as `TLS_STATE` gives it out. Derived from the kernel's socket state first
/// ([`derive()`]).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Phase {
    /// Neither connected nor listening: options may be set.
    Fresh = 0,
    /// `connect` runs; the SYN is held.
    Connecting = 1,
    /// The handshake is done and verified.
    Connected = 2,
    /// `listen` was called.
    Listening = 3,
    /// The last `connect` failed: as fresh, and may connect again.
    Failed = 4,
    /// The peer has closed, or the connection was reset.
    PeerClosed = 5,
}

impl Phase {
    /// All phases, by number.
    pub const ALL: [Self; 6] =
        [Self::Fresh, Self::Connecting, Self::Connected, Self::Listening, Self::Failed, Self::PeerClosed];

    /// True if options that configure a socket may be set.
    #[inline(always)]
    pub const fn may_configure(self) -> bool {
        matches!(self, Self::Fresh | Self::Failed)
    }

    /// True if there is, or was, a connection to ask about.
    #[inline(always)]
    pub const fn has_connection(self) -> bool {
        matches!(self, Self::Connected | Self::PeerClosed)
    }

    /// True if a socket can go from `self` to `next` in one step. `connect(AF_UNSPEC)` makes any
    /// socket fresh again, and `close` ends every phase.
    pub const fn may_become(self, next: Self) -> bool {
        match next {
            Self::Fresh => true,
            Self::Connecting => self.may_configure(),
            Self::Connected => matches!(self, Self::Connecting),
            Self::Listening => self.may_configure(),
            Self::Failed => matches!(self, Self::Fresh | Self::Connecting | Self::Failed),
            Self::PeerClosed => matches!(self, Self::Connected),
        }
    }
}

code! {
    /// Outcome of the last attempt to connect, as far as the socket itself knows. Written by the hooks.
    Outcome(u32) {
        /// No attempt.
        NONE = 0,
        /// The attempt was refused, or given up.
        FAILED = 1,
        /// The connection was established.
        ESTABLISHED = 2,
        /// The connection was established, and then reset.
        RESET = 3,
        /// An attempt has begun. If the socket never got to SYN_SENT, the kernel has refused it.
        STARTED = 4,
    }
}

code! {
    /// State of a TCP socket as the kernel numbers it (`include/net/tcp_states.h`, v6.12).
    TcpState(u32) {
        /// The handshake of TCP is done.
        ESTABLISHED = 1,
        /// A SYN was sent; for a TLS socket: held.
        SYN_SENT = 2,
        /// A SYN was received and answered.
        SYN_RECV = 3,
        /// This side has closed its direction.
        FIN_WAIT1 = 4,
        /// This side has closed its direction, and the peer knows.
        FIN_WAIT2 = 5,
        /// Both directions are closed; duplicates are waited for.
        TIME_WAIT = 6,
        /// No connection.
        CLOSE = 7,
        /// The peer has closed its direction.
        CLOSE_WAIT = 8,
        /// Both sides have closed; the peer does not know yet.
        LAST_ACK = 9,
        /// `listen` was called.
        LISTEN = 10,
        /// Both sides have closed at once.
        CLOSING = 11,
    }
}

impl TcpState {
    /// The state with a number that the kernel gave, which may be one without a name here.
    #[inline(always)]
    pub const fn from_kernel(number: u32) -> Self {
        Self(number)
    }
}

/// Derives the phase of a socket in kernel state `tcp`, whose last attempt ended in `last`
/// ([`Outcome`]), and which `has_peer` (its destination port is not zero).
///
/// `connect(AF_UNSPEC)` runs no hook; the kernel's `tcp_disconnect` clears the destination port,
/// which tells it from a connection that was reset.
#[inline(always)]
pub const fn derive(tcp: TcpState, last: Outcome, has_peer: bool) -> Phase {
    match tcp {
        TcpState::SYN_SENT | TcpState::SYN_RECV => Phase::Connecting,
        TcpState::ESTABLISHED | TcpState::FIN_WAIT1 | TcpState::FIN_WAIT2 => Phase::Connected,
        TcpState::LISTEN => Phase::Listening,
        TcpState::CLOSE => match last {
            Outcome::FAILED | Outcome::STARTED => Phase::Failed,
            Outcome::ESTABLISHED | Outcome::RESET if has_peer => Phase::PeerClosed,
            _ => Phase::Fresh,
        },
        _ => Phase::PeerClosed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_moves_are_allowed() {
        let allowed: Vec<(u32, u32)> = Phase::ALL
            .iter()
            .flat_map(|&from| Phase::ALL.iter().map(move |&to| (from, to)))
            .filter(|(from, to)| *to != Phase::Fresh && from.may_become(*to))
            .map(|(from, to)| (from as u32, to as u32))
            .collect();
        assert_eq!(
            allowed,
            [(0, 1), (0, 3), (0, 4), (1, 2), (1, 4), (2, 5), (4, 1), (4, 3), (4, 4)],
            "fresh and failed connect or listen; connecting connects or fails; connected ends"
        );
    }

    #[test]
    fn disconnected_socket_is_fresh_and_reset_one_is_closed() {
        assert_eq!(derive(TcpState::CLOSE, Outcome::ESTABLISHED, false), Phase::Fresh);
        assert_eq!(derive(TcpState::CLOSE, Outcome::ESTABLISHED, true), Phase::PeerClosed);
        assert_eq!(derive(TcpState::CLOSE, Outcome::FAILED, false), Phase::Failed);
        assert_eq!(derive(TcpState::CLOSE, Outcome::STARTED, true), Phase::Failed, "no route to loopback");
        assert_eq!(derive(TcpState::CLOSE, Outcome::RESET, true), Phase::PeerClosed);
        assert_eq!(derive(TcpState::CLOSE_WAIT, Outcome::ESTABLISHED, true), Phase::PeerClosed);
    }
}
