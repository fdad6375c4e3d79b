//! Options at other levels that matter to the peer: what an application sets on its socket holds on the
//! peer leg as well. One table drives the hooks, which read them, and the agent, which sets them.

/// Family of the sockets that have an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Family {
    /// All sockets.
    Any,
    /// Sockets that connect over IPv4, v4-mapped addresses included.
    V4,
    /// Sockets that connect over IPv6.
    V6,
}

/// Option of a socket that holds on the peer leg: 4 bytes, host byte order.
#[derive(Clone, Copy, Debug)]
pub struct PeerOption {
    /// The C name.
    pub name: &'static str,
    /// Level, as setsockopt(2) takes it.
    pub level: i32,
    /// Number at that level.
    pub number: i32,
    /// Sockets that have it.
    pub family: Family,
    /// True if a set after `connect` is followed, too: options that any process may set.
    pub follows: bool,
}

/// Level of the options of all sockets (`include/linux/socket.h`).
const SOL_SOCKET: i32 = 1;
/// Level of IPv4 (`include/uapi/linux/in.h`).
const IPPROTO_IP: i32 = 0;
/// Level of TCP (`include/uapi/linux/in.h`).
const IPPROTO_TCP: i32 = 6;
/// Level of IPv6 (`include/uapi/linux/in.h`).
const IPPROTO_IPV6: i32 = 41;

/// Makes an option that all sockets have.
const fn any(name: &'static str, level: i32, number: i32, follows: bool) -> PeerOption {
    PeerOption { name, level, number, family: Family::Any, follows }
}

/// Options by slot. Numbers: include/uapi/asm-generic/socket.h, linux/tcp.h, linux/in.h, linux/in6.h.
///
/// `bpf_getsockopt` reads them after the kernel has checked them (net/core/filter.c), so nothing is
/// mirrored that the application was not allowed to set.
pub const PEER_OPTIONS: [PeerOption; SLOTS] = [
    any("SO_KEEPALIVE", SOL_SOCKET, 9, true),
    any("TCP_KEEPIDLE", IPPROTO_TCP, 4, true),
    any("TCP_KEEPINTVL", IPPROTO_TCP, 5, true),
    any("TCP_KEEPCNT", IPPROTO_TCP, 6, true),
    any("TCP_NODELAY", IPPROTO_TCP, 1, true),
    any("TCP_USER_TIMEOUT", IPPROTO_TCP, 18, true),
    PeerOption { name: "IP_TOS", level: IPPROTO_IP, number: 1, family: Family::V4, follows: true },
    PeerOption { name: "IPV6_TCLASS", level: IPPROTO_IPV6, number: 67, family: Family::V6, follows: true },
    any("SO_MARK", SOL_SOCKET, 36, false),
    any("SO_PRIORITY", SOL_SOCKET, 12, false),
    any("SO_SNDBUF", SOL_SOCKET, 7, false),
    any("SO_RCVBUF", SOL_SOCKET, 8, false),
];

/// Slots of [`PEER_OPTIONS`].
pub const SLOTS: usize = 12;

/// Value of an option that the socket does not have, or that could not be read.
pub const ABSENT: i32 = i32::MIN;
