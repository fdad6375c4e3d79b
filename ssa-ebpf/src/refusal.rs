//! Verdicts of hooks: how a call ends that a hook refuses.

use aya_ebpf::helpers::generated::bpf_set_retval;
use ssa_common::{reason::Reason, socket::Socket};

/// Verdict of a hook: the call goes on, or the packet passes.
pub(crate) const ALLOW: i32 = 1;
/// Verdict of a hook: the call is refused, or the packet dropped.
pub(crate) const DENY: i32 = 0;

/// Errnos (`include/uapi/asm-generic/errno.h`).
pub(crate) mod errno {
    /// Only the kernel may decide this.
    pub(crate) const EPERM: i32 = 1;
    /// There is no such certificate or text.
    pub(crate) const ENOENT: i32 = 2;
    /// A rule denies it.
    pub(crate) const EACCES: i32 = 13;
    /// The buffer is a null pointer.
    pub(crate) const EFAULT: i32 = 14;
    /// Value or length is not valid.
    pub(crate) const EINVAL: i32 = 22;
    /// TLS can't be spoken as asked, or weaker than the policy.
    pub(crate) const EPROTO: i32 = 71;
    /// The state of the socket in the maps is gone.
    pub(crate) const EBADFD: i32 = 77;
    /// The answer is longer than a hook can give.
    pub(crate) const EMSGSIZE: i32 = 90;
    /// There is no such option, or not on this socket.
    pub(crate) const ENOPROTOOPT: i32 = 92;
    /// There is no such protocol here.
    pub(crate) const EPROTONOSUPPORT: i32 = 93;
    /// The phase or another option does not allow it.
    pub(crate) const EOPNOTSUPP: i32 = 95;
    /// A map, ring buffer or limit is full.
    pub(crate) const ENOBUFS: i32 = 105;
    /// No agent lives, or it does not know the caller yet.
    pub(crate) const ENOTCONN: i32 = 107;
}

/// Refusal of a call: its errno, and its text.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    /// Errno that the call returns.
    pub(crate) errno: i32,
    /// Text that `TLS_ERROR` gives.
    pub(crate) reason: Reason,
}

impl Refusal {
    /// Joins an errno and a reason.
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
