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

/// Connections of one namespace that can be between their resumption and their acceptance at once.
pub const STEER_CAPACITY: usize = 1 << 16;

pod!(ResumedKey);

const _: () = assert!(size_of::<ResumedKey>() == 36);
