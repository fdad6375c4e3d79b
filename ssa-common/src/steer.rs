//! What the agent tells the steering program of a network namespace.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::pod;

/// The 4-tuple of a connection that is being resumed, as its SYN has it. IPv4 addresses are kept
/// v4-mapped.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct ResumedKey {
    /// The application's address, network byte order.
    pub source: [u8; 16],
    /// The virtual address, network byte order.
    pub target: [u8; 16],
    /// The application's port, host byte order.
    pub source_port: u16,
    /// The virtual port, host byte order.
    pub target_port: u16,
}

/// Where a TLS socket listens.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct ListenKey {
    /// Network byte order; `::` or `::ffff:0.0.0.0` for every address of the family.
    pub addr: [u8; 16],
    /// Host byte order.
    pub port: u16,
    /// Reserved; always zero.
    pub reserved: u16,
}

/// What becomes of a new connection to where somebody listens: the agent answers, by the target with this number (IPv4)
/// or the one after it (IPv6), unless it is
pub mod action {
    /// A socket that is no TLS socket listens there.
    pub const PASS: u32 = u32::MAX;
}

/// A leg from the agent to a program's listener, with the namespace that it is in.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct LegKey {
    /// Network namespace (cookie).
    pub netns: u64,
    /// The agent's address as source, the listener's as target.
    pub tuple: ResumedKey,
    /// Reserved; always zero.
    pub reserved: u32,
}

/// Sockets of the agent in the map of targets: listeners for application legs, and then, in pairs for IPv4 and IPv6,
/// those for clients of programs' listeners.
pub mod target {
    pub const LEG_V4: u32 = 0;
    pub const LEG_V6: u32 = 1;
    /// The first pair.
    pub const ENTRANCE: u32 = 2;
    /// How many pairs there may be: one for each cgroup and user that listens in the namespace.
    pub const ENTRANCES: u32 = 4096;
    /// How many there are in all.
    pub const COUNT: usize = (ENTRANCE + 2 * ENTRANCES) as usize;
}

/// Connections of one namespace that can be between their resumption and their acceptance at once.
pub const STEER_CAPACITY: usize = 1 << 16;

pod!(ResumedKey);
pod!(ListenKey);
pod!(LegKey);

const _: () = assert!(size_of::<ResumedKey>() == 36);
const _: () = assert!(size_of::<ListenKey>() == 20);
const _: () = assert!(size_of::<LegKey>() == 48);
