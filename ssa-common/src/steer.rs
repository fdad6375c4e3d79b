//! What the agent tells the steering program of a network namespace.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{code, pod};

/// The 4-tuple of a connection that is being resumed, as its SYN has it. IPv4 addresses are kept
/// v4-mapped.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct FourTuple {
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

/// A leg from the agent to a program's listener, with the namespace that it is in.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct LegKey {
    /// Network namespace (cookie).
    pub netns: u64,
    /// The agent's address as source, the listener's as target.
    pub tuple: FourTuple,
    /// Reserved; always zero.
    pub reserved: u32,
}

code! {
    /// Target of a new connection: index of one of the agent's listeners in the map `TARGETS` of a namespace.
    ///
    /// The first two take application legs. Pairs follow, for IPv4 and IPv6, that take clients of TLS listeners: one pair for
    /// each cgroup and user that listens in the namespace. In the map `LISTEN` the first of a pair stands for both.
    Target(u32) {
        /// Listener for application legs over IPv4.
        LEG_V4 = 0,
        /// Listener for application legs over IPv6.
        LEG_V6 = 1,
        /// First listener of the first pair for clients.
        FIRST_PAIR = 2,
        /// None: a socket that is no TLS socket listens there, and the kernel's own look-up decides.
        PASS = u32::MAX,
    }
}

impl Target {
    /// Pairs of listeners for clients, at most.
    pub const PAIRS: u32 = 4096;
    /// Listeners in all, at most: the capacity of the map `TARGETS`.
    pub const COUNT: usize = (Self::FIRST_PAIR.0 + 2 * Self::PAIRS) as usize;

    /// The listener for IPv4 of a pair; `pair` counts from 0 and is below [`Self::PAIRS`].
    pub const fn pair(pair: u32) -> Self {
        Self(Self::FIRST_PAIR.0 + 2 * pair)
    }

    /// The listener for IPv6 of the pair whose first this is.
    #[inline(always)]
    pub const fn second(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Connections of one namespace that can be between their resumption and their acceptance at once.
pub const STEER_CAPACITY: usize = 1 << 16;

pod!(FourTuple);
pod!(ListenKey);
pod!(LegKey);

const _: () = assert!(size_of::<FourTuple>() == 36);
const _: () = assert!(size_of::<ListenKey>() == 20);
const _: () = assert!(size_of::<LegKey>() == 48);
