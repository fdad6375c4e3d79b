//! Cgroups of the machine, as the agent has decided on them and the hooks look them up.
//!
//! The hooks are attached once, to the root of the hierarchy. What becomes of a socket goes by the cgroup of the
//! process that calls: by its own entry of the map `CGROUPS`, or that of the nearest cgroup above it that says
//! [`BELOW_ALIKE`]. A cgroup with neither is undecided: see [`UNDECIDED`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::pod;

/// Value of the map `CGROUPS`: the decision on one cgroup, written by the agent in one step.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Cgroup {
    /// Service that it belongs to: the inode of the served cgroup, which is this one or one above it. Zero: none, and
    /// its sockets are left alone.
    pub service: u64,
    /// Number of its set of rules, from 1; zero for none.
    pub rules: u32,
    /// Bits: [`BELOW_ALIKE`], [`CLOSED`].
    pub flags: u32,
}

/// Bit of [`Cgroup::flags`]: each cgroup below that is in no map is as this one.
pub const BELOW_ALIKE: u32 = 1;

/// Bit of [`Cgroup::flags`]: the service was detached, and what its rules make TLS is refused, as is each option.
pub const CLOSED: u32 = 2;

/// Key of the map `CGROUPS` beside inodes, which are never zero: what counts for a cgroup that the agent has not
/// decided on. Its rules are those of all services, but for those that leave traffic alone: a connect or listener that
/// none of them could want goes on, any other is held until the agent has decided. Its service is the agent's own
/// [`owner`], by which it knows what others serve in the map `OWNERS`.
pub const UNDECIDED: u64 = 0;

/// Number of the agent of this name in the map `OWNERS`, which all agents share: FNV-1a of the name, never zero.
pub const fn owner(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    if hash == 0 { 1 } else { hash }
}

pod!(Cgroup);

const _: () = assert!(size_of::<Cgroup>() == 16);
