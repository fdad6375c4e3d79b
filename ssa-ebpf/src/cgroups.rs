//! The cgroup of whoever calls, as the agent has decided on it.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{
        bpf_get_current_cgroup_id,
        generated::{bpf_get_current_ancestor_cgroup_id, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id},
    },
};
use ssa_common::cgroup::{BELOW_ALIKE, CLOSED, Cgroup, UNDECIDED};

use crate::maps::{CGROUPS, OWNERS};

/// Decision on a cgroup, or that there is none yet.
#[derive(Clone, Copy)]
pub(crate) struct Decision {
    /// Service that it belongs to; zero for none. The cgroup itself where it is undecided.
    pub(crate) service: u64,
    /// Number of its set of rules; where it is undecided, of the set of all that a rule could want.
    pub(crate) rules: u32,
    /// True if the agent has still to decide.
    pub(crate) undecided: bool,
    /// True if the service was detached, and left closed.
    pub(crate) closed: bool,
}

/// Deepest nesting that is looked at. Cgroups are seldom nested deeper; what is, is undecided.
const LEVELS: i32 = 24;

/// Decision on the cgroup of the process that calls.
#[inline(always)]
pub(crate) fn of_caller() -> Decision {
    // SAFETY: the helpers take any level.
    decision(unsafe { bpf_get_current_cgroup_id() }, |level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}

/// Decision on the cgroup in which a packet's socket was made.
#[inline(always)]
pub(crate) fn of_packet(skb: *mut __sk_buff) -> Decision {
    // SAFETY: the helpers take the hook's context, and any level.
    decision(unsafe { bpf_skb_cgroup_id(skb) }, |level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level) })
}

/// Decision on a cgroup that a process has called from before. What is above it is not known here: it is undecided
/// until the agent has seen it.
#[inline(always)]
pub(crate) fn of_earlier(cgroup: u64) -> Decision {
    // SAFETY: the value is read within this hook.
    match unsafe { CGROUPS.get(cgroup) } {
        Some(found) => decided(found),
        // SAFETY: as above.
        None => undecided(cgroup, unsafe { OWNERS.get(cgroup) }.copied().unwrap_or(0)),
    }
}

/// Decision on a cgroup: its own, or that of the nearest one above it which is known, if that is for all below it. One
/// that another agent serves, or that is below such a one, is left alone.
#[inline(always)]
fn decision(own: u64, ancestor: impl Fn(i32) -> u64) -> Decision {
    // SAFETY: the values are read within this hook.
    unsafe {
        if let Some(found) = CGROUPS.get(own) {
            return decided(found);
        }
        let mut nearest: Option<&Cgroup> = None;
        let mut owned = OWNERS.get(own).copied().unwrap_or(0);
        for level in 0..LEVELS {
            let above = ancestor(level);
            if above == 0 || above == own {
                break;
            }
            if let Some(found) = CGROUPS.get(above) {
                nearest = Some(found);
            }
            if let Some(owner) = OWNERS.get(above) {
                owned = *owner;
            }
        }
        match nearest {
            Some(found) if found.flags & BELOW_ALIKE != 0 => decided(found),
            _ => undecided(own, owned),
        }
    }
}

#[inline(always)]
fn decided(found: &Cgroup) -> Decision {
    Decision { service: found.service, rules: found.rules, undecided: false, closed: found.flags & CLOSED != 0 }
}

/// Decision where there is none: whatever a rule could want is held, if no other agent owns the cgroup.
#[inline(always)]
fn undecided(own: u64, owner: u64) -> Decision {
    // SAFETY: the value is read within this hook.
    match unsafe { CGROUPS.get(UNDECIDED) } {
        Some(all) if owner == 0 || owner == all.service => {
            Decision { service: own, rules: all.rules, undecided: true, closed: false }
        }
        // Another agent's; or this one has never served.
        _ => Decision { service: 0, rules: 0, undecided: false, closed: false },
    }
}
