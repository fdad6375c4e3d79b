//! What the administrator allows the program that calls.

use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_uid_gid};
use ssa_common::policy::{Policy, PolicyKey, UNKNOWN_CGROUP};

use crate::maps::{CGROUP_CLASSES, POLICIES, USER_CLASSES};

/// The row of the calling program's cgroup and user. What its executable decides is not known here:
/// the agent checks that, at `connect`. While the rows change, everybody else's may stand in.
#[inline(always)]
pub(crate) fn of_caller() -> Option<&'static Policy> {
    // SAFETY: the helper takes nothing; rows and classes are replaced whole, and read within the hook.
    unsafe {
        let cgroup = CGROUP_CLASSES.get(bpf_get_current_cgroup_id()).copied().unwrap_or(UNKNOWN_CGROUP);
        let user = USER_CLASSES.get(bpf_get_current_uid_gid() as u32).copied().unwrap_or(0);
        POLICIES.get(PolicyKey { cgroup, user }).or_else(|| POLICIES.get(PolicyKey { cgroup: 0, user: 0 }))
    }
}
