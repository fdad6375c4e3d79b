//! Limits that the administrator sets, as the hooks check them at the call: a row for each class of applications.
//! Written by the agent only.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    cipher::{CipherList, CipherSet},
    context::SETTINGS,
    pod,
};

/// Key of the map `POLICIES`: a class of cgroups and a class of users. Class 0 is everybody else.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct PolicyKey {
    /// Class of the caller's cgroup: the value of the map `CGROUP_CLASSES`, or [`UNKNOWN_CGROUP`].
    pub cgroup: u32,
    /// Class of the caller's real user: the value of the map `USER_CLASSES`.
    pub user: u32,
}

/// Class of the cgroups that the agent has not looked at yet. Its rows allow what any row of that user does: the agent
/// checks again at `connect`, when it knows the cgroup.
pub const UNKNOWN_CGROUP: u32 = u32::MAX;

/// Row of policy: the value of the map `POLICIES`. Numbers are in host byte order.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Policy {
    /// Settings of a new context, by [`crate::context::Setting`].
    pub defaults: [i64; SETTINGS],
    /// Lowest value of each setting; a lower one is refused with `EPROTO`.
    pub least: [i64; SETTINGS],
    /// Highest value of each setting; a higher one is refused with `EPROTO`.
    pub most: [i64; SETTINGS],
    /// TLS sockets that one user may have open; one more is refused with `ENOBUFS`.
    pub sockets_per_user: u64,
    /// TLS sockets that may be open in all; one more is refused with `ENOBUFS`.
    pub sockets: u64,
    /// 1 if applications may bring CAs of their own (`TLS_TRUSTED_PEER_CERTIFICATES`).
    pub own_trust: u32,
    /// Reserved; always zero.
    pub reserved: u32,
    /// Suites that may be used; another is refused with `EPROTO`.
    pub allowed: CipherSet,
    /// Suites of a new context, in order of preference.
    pub ciphers: CipherList,
}

pod!(PolicyKey);
pod!(Policy);

const _: () = assert!(size_of::<Policy>() == 664);
