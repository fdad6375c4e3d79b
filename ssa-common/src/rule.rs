//! What the administrator's rules come to for sockets that set no options of TLS, as the hooks look it up.
//!
//! A cgroup has a set of rules; a set has groups of rules, by address; a group has rulings, by port. The longest prefix of
//! an address, and then of a port, decides.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::pod;

/// What a socket is about to do.
pub mod kind {
    /// `connect` on a TCP socket.
    pub const OUT_TCP: u8 = 1;
    /// `connect` or `sendto` on a UDP socket.
    pub const OUT_UDP: u8 = 2;
    /// `bind` and `listen` on a TCP socket.
    pub const IN_TCP: u8 = 3;
}

/// What becomes of it.
pub mod action {
    /// Nothing: the socket is none of ours.
    pub const PLAIN: u32 = 0;
    /// It becomes a TLS socket.
    pub const TLS: u32 = 1;
    /// It is refused, with `EACCES`.
    pub const DENY: u32 = 2;
    /// Nobody knows yet, as the cgroup is new: it is refused, with `ENOTCONN`.
    pub const UNKNOWN: u32 = 3;
}

/// In a cgroup's number of a set: no rule can be for a cgroup below it that is not known.
pub const CLOSED_BELOW: u32 = 1 << 31;

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
    /// See [`kind`].
    pub kind: u8,
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
