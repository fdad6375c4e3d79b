//! What the administrator allows the program that calls.

use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_uid_gid};
use ssa_common::{
    policy::{Policy, PolicyKey, UNKNOWN_CGROUP},
    socket::Caller,
};

use crate::maps::{CGROUP_CLASSES, POLICIES, USER_CLASSES};

/// The row of the calling program's cgroup and user. What its executable decides is not known here:
/// the agent checks that, at `connect`. While the rows change, everybody else's may stand in.
#[inline(always)]
pub(crate) fn of_caller() -> Option<&'static Policy> {
    // SAFETY: the helper takes nothing.
    of(unsafe { bpf_get_current_cgroup_id() }, bpf_get_current_uid_gid() as u32)
}

/// As [`of_caller`], of one who has called before.
#[inline(always)]
pub(crate) fn of_earlier(caller: &Caller) -> Option<&'static Policy> {
    of(caller.cgroup, caller.uid)
}

#[inline(always)]
fn of(cgroup: u64, uid: u32) -> Option<&'static Policy> {
    // SAFETY: rows and classes are replaced whole, and read within the hook.
    unsafe {
        let cgroup = CGROUP_CLASSES.get(cgroup).copied().unwrap_or(UNKNOWN_CGROUP);
        let user = USER_CLASSES.get(uid).copied().unwrap_or(0);
        POLICIES.get(PolicyKey { cgroup, user }).or_else(|| POLICIES.get(PolicyKey { cgroup: 0, user: 0 }))
    }
}
