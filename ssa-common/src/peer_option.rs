//! Options at other levels that matter to the peer: what a program sets on its socket holds on the
//! peer leg as well. One table drives the hooks, which read them, and the agent, which sets them.

/// Which sockets have an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Family {
    Any,
    /// Those that connect over IPv4, v4-mapped addresses included.
    V4,
    V6,
}

/// One option of 4 bytes, host byte order.
#[derive(Clone, Copy, Debug)]
pub struct PeerOption {
    pub name: &'static str,
    pub level: i32,
    pub number: i32,
    pub family: Family,
    /// Followed if it is set after `connect`, too: those that any program may set.
    pub follows: bool,
}

const SOL_SOCKET: i32 = 1;
const IPPROTO_IP: i32 = 0;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_IPV6: i32 = 41;

const fn any(name: &'static str, level: i32, number: i32, follows: bool) -> PeerOption {
    PeerOption { name, level, number, family: Family::Any, follows }
}

/// The options, by slot. Numbers: include/uapi/asm-generic/socket.h, linux/tcp.h, linux/in.h, linux/in6.h.
///
/// `bpf_getsockopt` reads them after the kernel has checked them (net/core/filter.c), so nothing is
/// mirrored that the program was not allowed to set.
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

/// What is read for an option that the socket does not have.
pub const ABSENT: i32 = i32::MIN;
