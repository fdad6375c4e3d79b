//! The phase of a TLS socket, as `TLS_STATE` shows it.

/// Where a TLS socket is in its life. Derived from the kernel's socket state first ([`derive()`]).
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
    /// All phases.
    pub const ALL: [Self; 6] =
        [Self::Fresh, Self::Connecting, Self::Connected, Self::Listening, Self::Failed, Self::PeerClosed];

    /// Whether options that configure a socket may be set.
    #[inline(always)]
    pub const fn may_configure(self) -> bool {
        matches!(self, Self::Fresh | Self::Failed)
    }

    /// Whether there is, or was, a connection to ask about.
    #[inline(always)]
    pub const fn has_connection(self) -> bool {
        matches!(self, Self::Connected | Self::PeerClosed)
    }

    /// Whether a socket can go from `self` to `next` in one step. `connect(AF_UNSPEC)` makes any
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

/// How the last attempt to connect ended, as far as the socket itself knows.
pub mod outcome {
    /// No attempt.
    pub const NONE: u32 = 0;
    /// The attempt was refused, or given up.
    pub const FAILED: u32 = 1;
    /// The connection was established.
    pub const ESTABLISHED: u32 = 2;
    /// The connection was established, and then reset.
    pub const RESET: u32 = 3;
    /// An attempt has begun. If the socket never got to SYN_SENT, the kernel has refused it.
    pub const STARTED: u32 = 4;
}

/// Kernel socket states (`include/net/tcp_states.h`).
pub mod tcp_state {
    pub const ESTABLISHED: u32 = 1;
    pub const SYN_SENT: u32 = 2;
    pub const SYN_RECV: u32 = 3;
    pub const FIN_WAIT1: u32 = 4;
    pub const FIN_WAIT2: u32 = 5;
    pub const CLOSE: u32 = 7;
    pub const CLOSE_WAIT: u32 = 8;
    pub const LISTEN: u32 = 10;
}

/// The phase of a socket in kernel state `tcp`, whose last attempt ended in `last`
/// ([`outcome`]), and which `has_peer` (its destination port is not zero).
///
/// `connect(AF_UNSPEC)` runs no hook; the kernel's `tcp_disconnect` clears the destination port,
/// which tells it from a connection that was reset.
#[inline(always)]
pub const fn derive(tcp: u32, last: u32, has_peer: bool) -> Phase {
    match tcp {
        tcp_state::SYN_SENT | tcp_state::SYN_RECV => Phase::Connecting,
        tcp_state::ESTABLISHED | tcp_state::FIN_WAIT1 | tcp_state::FIN_WAIT2 => Phase::Connected,
        tcp_state::LISTEN => Phase::Listening,
        tcp_state::CLOSE => match last {
            outcome::FAILED | outcome::STARTED => Phase::Failed,
            outcome::ESTABLISHED | outcome::RESET if has_peer => Phase::PeerClosed,
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
        assert_eq!(derive(tcp_state::CLOSE, outcome::ESTABLISHED, false), Phase::Fresh);
        assert_eq!(derive(tcp_state::CLOSE, outcome::ESTABLISHED, true), Phase::PeerClosed);
        assert_eq!(derive(tcp_state::CLOSE, outcome::FAILED, false), Phase::Failed);
        assert_eq!(derive(tcp_state::CLOSE, outcome::STARTED, true), Phase::Failed, "no route to loopback");
        assert_eq!(derive(tcp_state::CLOSE, outcome::RESET, true), Phase::PeerClosed);
        assert_eq!(derive(8, outcome::ESTABLISHED, true), Phase::PeerClosed, "CLOSE_WAIT");
    }
}
