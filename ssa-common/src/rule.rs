//! The administrator's rules for sockets that set no options of TLS, as the hooks look them up.
//!
//! A cgroup has a set of rules; a set has groups of rules, by address; a group has actions, by port. The longest
//! prefix of an address, and then of a port, decides.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{code, pod};

code! {
    /// Traffic that a rule is for: direction and transport protocol.
    Traffic(u8) {
        /// `connect` on a TCP socket.
        OUT_TCP = 1,
        /// `connect` or `sendto` on a UDP socket.
        OUT_UDP = 2,
        /// `bind` and `listen` on a TCP socket.
        IN_TCP = 3,
    }
}

code! {
    /// Action of a rule: what becomes of a socket that sets no options of TLS. Written by the agent.
    Action(u32) {
        /// Nothing: the socket speaks plaintext, and is none of ours.
        PLAIN = 0,
        /// The socket becomes a TLS socket.
        TLS = 1,
        /// The call is refused with `EACCES`.
        DENY = 2,
        /// A rule could want it, and the agent has not decided on the cgroup yet: the socket is held until it has. In
        /// no map; the hooks' own.
        HELD = 3,
        /// The service was detached and left closed: the call is refused with `ENOTCONN`. In no map; the hooks' own.
        CLOSED = 4,
    }
}

/// Key of the map `RULE_ADDRESSES`: a network of a set. Its prefix has the 32 bits of the set and as many of the
/// address as count. Written by the agent.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct AddressKey {
    /// Number of the set, from 1, host byte order.
    pub set: u32,
    /// First address of the network: IPv6 or v4-mapped, network byte order.
    pub addr: [u8; 16],
}

/// Networks of one set that can lie in one another: groups that one address can have.
pub const DEPTH: usize = 8;

/// Value of the map `RULE_ADDRESSES`: numbers of the groups that are for a network, the most specific first; zeros for
/// none. Written by the agent.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Groups(pub [u32; DEPTH]);

/// Key of the map `RULE_PORTS`: a range of ports of a group. Its prefix has all bits but those of the port that don't
/// count. Written by the agent.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct PortKey {
    /// Number of the group, from 1, host byte order.
    pub group: u32,
    /// Traffic that the action is for.
    pub traffic: Traffic,
    /// Reserved; always zero.
    pub reserved: u8,
    /// First port of the range, network byte order.
    pub port: [u8; 2],
}

/// Bits of an [`AddressKey`] before those of the address.
pub const ADDRESS_BITS: u32 = 32;
/// Bits of a [`PortKey`] before those of the port.
pub const PORT_BITS: u32 = 48;

pod!(AddressKey);
pod!(Groups);
pod!(PortKey);

const _: () = assert!(size_of::<AddressKey>() == 20);
const _: () = assert!(size_of::<Groups>() == 4 * DEPTH);
const _: () = assert!(size_of::<PortKey>() == 8);
