//! What the administrator allows, as the hooks check it at the call: a row for each class of
//! programs. Written by the agent only.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    cipher::{CipherList, CipherSet},
    context::SETTINGS,
    pod,
};

/// Names a row: class of the program's cgroup, and class of its user. Zero is everybody else.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct PolicyKey {
    pub cgroup: u32,
    pub user: u32,
}

/// Class of the cgroups that the agent has not looked at yet.
pub const UNKNOWN_CGROUP: u32 = u32::MAX;

/// One row.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Policy {
    /// Settings of a new context.
    pub defaults: [i64; SETTINGS],
    /// A lower setting is refused.
    pub least: [i64; SETTINGS],
    /// A higher setting is refused.
    pub most: [i64; SETTINGS],
    /// TLS sockets that one user may have open.
    pub sockets_per_user: u64,
    /// TLS sockets that may be open in all.
    pub sockets: u64,
    /// 1 if programs may bring CAs of their own (`TLS_TRUSTED_PEER_CERTIFICATES`).
    pub own_trust: u32,
    /// Reserved; always zero.
    pub reserved: u32,
    /// Suites that may be used.
    pub allowed: CipherSet,
    /// These, in order of preference.
    pub ciphers: CipherList,
}

pod!(PolicyKey);
pod!(Policy);

const _: () = assert!(size_of::<Policy>() == 664);
