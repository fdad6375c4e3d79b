//! The administrator's limits for the process that calls.

use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_uid_gid};
use ssa_common::{
    policy::{Policy, PolicyKey, UNKNOWN_CGROUP},
    socket::Caller,
};

use crate::maps::{CGROUP_CLASSES, POLICIES, USER_CLASSES};

/// Row of policy for the caller's cgroup and real user; none before the agent has written one. What its executable
/// decides is not known here: the agent checks that, at `connect`. While the rows change, everybody else's may stand
/// in.
#[inline(always)]
pub(crate) fn of_caller() -> Option<&'static Policy> {
    // SAFETY: the helper takes nothing.
    of(unsafe { bpf_get_current_cgroup_id() }, bpf_get_current_uid_gid() as u32)
}

/// As [`of_caller`], for a process that has called before.
#[inline(always)]
pub(crate) fn of_earlier(caller: &Caller) -> Option<&'static Policy> {
    of(caller.cgroup, caller.uid)
}

/// Row for a cgroup and a real user; everybody else's if theirs is not there.
#[inline(always)]
fn of(cgroup: u64, uid: u32) -> Option<&'static Policy> {
    // SAFETY: rows and classes are replaced whole, and read within the hook.
    unsafe {
        let cgroup = CGROUP_CLASSES.get(cgroup).copied().unwrap_or(UNKNOWN_CGROUP);
        let user = USER_CLASSES.get(uid).copied().unwrap_or(0);
        POLICIES.get(PolicyKey { cgroup, user }).or_else(|| POLICIES.get(PolicyKey { cgroup: 0, user: 0 }))
    }
}
