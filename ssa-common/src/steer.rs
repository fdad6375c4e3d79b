//! Keys and values by which the agent tells the steering program of a network namespace what to do.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{code, pod};

/// Four-tuple of a connection, as its SYN has it: the key of the map `RESUMED`. IPv4 addresses are kept v4-mapped.
/// Written by the agent.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct FourTuple {
    /// Source address, network byte order: the application's, or that of the agent's leg to a listener.
    pub source: [u8; 16],
    /// Destination address, network byte order: the virtual address, or the listener's.
    pub target: [u8; 16],
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, host byte order.
    pub target_port: u16,
}

/// Address at which a socket listens: the key of the map `LISTEN`. Written by the agent.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct ListenKey {
    /// IPv6 or v4-mapped address, network byte order; `::` or `::ffff:0.0.0.0` for every address of the family.
    pub addr: [u8; 16],
    /// Port, host byte order.
    pub port: u16,
    /// Reserved; always zero.
    pub reserved: u16,
}

/// Leg from the agent to an application's listener: the key of the map `LEGS`. Written by the agent, and deleted by
/// the hook that lets it pass.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct LegKey {
    /// Cookie of the network namespace that both ends are in.
    pub netns: u64,
    /// Addresses: the agent's as source, the listener's as target.
    pub tuple: FourTuple,
    /// Reserved; always zero.
    pub reserved: u32,
}

code! {
    /// Target of a new connection: index of one of the agent's listeners in the map `TARGETS` of a namespace.
    ///
    /// The first two take application legs. Pairs follow, for IPv4 and IPv6, that take clients of TLS listeners: one
    /// pair for each cgroup and user that listens in the namespace. In the map `LISTEN` the first of a pair stands
    /// for both.
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
