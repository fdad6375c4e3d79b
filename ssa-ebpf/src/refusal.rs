//! Verdicts of hooks: how a call ends that a hook refuses.

use aya_ebpf::helpers::generated::bpf_set_retval;
use ssa_common::{reason::Reason, socket::Socket};

/// Let the call go on.
pub(crate) const ALLOW: i32 = 1;
/// Refuse the call, or drop the packet.
pub(crate) const DENY: i32 = 0;

/// Errnos (`include/uapi/asm-generic/errno.h`).
pub(crate) mod errno {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EACCES: i32 = 13;
    pub(crate) const EFAULT: i32 = 14;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const EPROTO: i32 = 71;
    pub(crate) const EBADFD: i32 = 77;
    pub(crate) const EMSGSIZE: i32 = 90;
    pub(crate) const ENOPROTOOPT: i32 = 92;
    pub(crate) const EPROTONOSUPPORT: i32 = 93;
    pub(crate) const EOPNOTSUPP: i32 = 95;
    pub(crate) const ENOBUFS: i32 = 105;
    pub(crate) const ENOTCONN: i32 = 107;
}

/// A refusal: its errno, and what `TLS_ERROR` will say.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) reason: Reason,
}

impl Refusal {
    #[inline(always)]
    pub(crate) const fn new(errno: i32, reason: Reason) -> Self {
        Self { errno, reason }
    }
}

/// Ends a call with `-errno`.
///
/// KERNEL: `bpf_set_retval` from 5.18, in connect hooks from 6.1.
#[inline(always)]
pub(crate) fn deny(errno: i32) -> i32 {
    // SAFETY: the helper takes any value of 0 or -MAX_ERRNO..-1.
    unsafe { bpf_set_retval(-errno) };
    DENY
}

/// Ends a call as `refusal` says, and keeps the reason with the socket.
#[inline(always)]
pub(crate) fn refuse(socket: Option<&mut Socket>, refusal: Refusal) -> i32 {
    if let Some(socket) = socket {
        socket.reason = refusal.reason as u32;
    }
    deny(refusal.errno)
}

/// `ENOTCONN`: no agent lives, or it has not said yet what the administrator allows.
pub(crate) const AGENT_AWAY: Refusal = Refusal::new(errno::ENOTCONN, Reason::AgentNotRunning);
/// `EINVAL`: a value or length that the option's contract does not allow.
pub(crate) const BAD_VALUE: Refusal = Refusal::new(errno::EINVAL, Reason::BadValue);
/// `ENOBUFS`: a map or the ring buffer is full, or no id is left. The caller has counted it.
pub(crate) const NO_ROOM: Refusal = Refusal::new(errno::ENOBUFS, Reason::NoRoom);
/// `EPROTO`: weaker than the administrator's policy.
pub(crate) const WEAKER: Refusal = Refusal::new(errno::EPROTO, Reason::Policy);
