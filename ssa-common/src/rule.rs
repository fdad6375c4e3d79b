//! What the administrator's rules come to for sockets that set no options of TLS, as the hooks look it up.
//!
//! A cgroup has a set of rules; a set has groups of rules, by address; a group has rulings, by port. The longest prefix of
//! an address, and then of a port, decides.

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
        /// No rule is known yet, as the cgroup is new: the call is refused with `ENOTCONN`. In no map; the hooks' own.
        UNKNOWN = 3,
    }
}

/// In a cgroup's number of a set: no rule can be for a cgroup below it that is not known.
pub const NO_RULES_BELOW: u32 = 1 << 31;

/// An address of a set. Its prefix has the 32 bits of the set and as many of the address as count.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct AddressKey {
    pub set: u32,
    /// IPv6 or v4-mapped address, network byte order.
    pub addr: [u8; 16],
}

/// Groups of one address deep in one another, at most.
pub const DEPTH: usize = 8;

/// The groups that are for an address, the most specific first; zeros for none.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Groups(pub [u32; DEPTH]);

/// A port of a group. Its prefix has all bits but those of the port that don't count.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct PortKey {
    pub group: u32,
    /// The traffic that the group's rules are for.
    pub traffic: Traffic,
    /// Reserved; always zero.
    pub reserved: u8,
    /// Network byte order.
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
