//! The process that calls, as a hook sees it at the call. /proc may only confirm what is taken here.

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, generated::bpf_get_netns_cookie,
};
use ssa_common::socket::Caller;

/// Process of a `service` that calls a hook. `ctx` is the hook's context.
///
/// KERNEL: the helpers exist in cgroup hooks from 6.1 at least.
#[inline(always)]
pub(crate) fn caller(ctx: *mut core::ffi::c_void, service: u64) -> Caller {
    let ids = bpf_get_current_pid_tgid();
    let owner = bpf_get_current_uid_gid();
    Caller {
        uid: owner as u32,
        gid: (owner >> 32) as u32,
        tgid: (ids >> 32) as u32,
        tid: ids as u32,
        // SAFETY: the helper takes the hook's context.
        netns: unsafe { bpf_get_netns_cookie(ctx) },
        service,
        // SAFETY: the helper takes nothing.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
    }
}
