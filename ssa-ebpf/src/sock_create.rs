//! `socket(2)` with `IPPROTO_TLS`: a TCP socket that is a TLS socket from the start.
//!
//! Three programs of type `fmod_ret` see a call on its way through the kernel (net/socket.c, 6.6 and later), and
//! one cgroup hook sees the socket, but not what was asked for. A mark in a map, by thread, connects them:
//!
//! 1. [`ssa_protocol`] turns 205 into TCP and leaves a mark, or removes one that is there;
//! 2. [`ssa_creating`] removes a mark that has been here before: the call that left it has failed, and this is
//!    another one (one of io_uring's, which don't pass 1);
//! 3. [`ssa_create`] takes the mark and makes the socket a TLS socket;
//! 4. [`ssa_created`] refuses a socket whose mark nobody took: no hook of a cgroup saw it.
//!
//! The first, second and fourth are loaded by the agent's own module (`kernel/fmod_ret.rs`). Their sections say
//! `fentry`, which has the same arguments and is known to aya; its macro would drop what they return.
//!
//! If another program of the cgroup refuses a socket after the third, the count of TLS sockets stays one too high, as
//! no hook sees the end of such a socket: an agent that ends then waits for it, which is the safe side.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::cgroup_sock,
    programs::{FEntryContext, SockContext},
};
use core::ffi::c_void;
use ssa_common::{limits::Counter, uapi::IPPROTO_TLS};

use crate::{
    address::AF_INET,
    cgroups,
    ctx::{AF_INET6, IPPROTO_TCP, SOCK_STREAM, is_tcp},
    maps::{SOCKET_CALLS, count, make_socket},
    refusal::{ALLOW, deny, errno},
};

/// Result of a `fmod_ret` program: the kernel's own function runs.
const GO_ON: i32 = 0;
/// Mark that [`ssa_protocol`] has just left.
const LEFT: u32 = 1;
/// Mark that [`ssa_creating`] has seen.
const SEEN: u32 = 2;

/// `int update_socket_protocol(int family, int type, int protocol)`: the protocol to go on with; zero for what
/// was asked for.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/update_socket_protocol")]
fn ssa_protocol(ctx: *mut c_void) -> i32 {
    /// `SOCK_NONBLOCK` and `SOCK_CLOEXEC`. With any other flag the call will fail.
    const FLAGS: u32 = 0o4000 | 0o2_000_000;
    let ctx = FEntryContext::new(ctx);
    let thread = bpf_get_current_pid_tgid();
    let (family, kind, protocol) = (ctx.arg::<u32>(0), ctx.arg::<u32>(1), ctx.arg::<i32>(2));
    let wanted = protocol == IPPROTO_TLS
        && (family == AF_INET || family == AF_INET6)
        && kind & !FLAGS == SOCK_STREAM
        && cgroups::of_caller().service != 0;
    if wanted && SOCKET_CALLS.insert(thread, LEFT, 0).is_ok() {
        return IPPROTO_TCP as i32;
    }
    if wanted {
        // No room for a mark: the kernel says that there is no such protocol.
        count(Counter::NoRoom, 1);
    }
    remove_mark(thread);
    GO_ON
}

/// `int security_socket_create(int family, int type, int protocol, int kern)`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/security_socket_create")]
fn ssa_creating(_ctx: *mut c_void) -> i32 {
    let thread = bpf_get_current_pid_tgid();
    if let Some(mark) = SOCKET_CALLS.get_ptr_mut(thread) {
        // SAFETY: a live value of the map, which only this thread uses.
        unsafe {
            if mark.read_volatile() == LEFT {
                mark.write_volatile(SEEN);
                return GO_ON;
            }
        }
        remove_mark(thread);
    }
    GO_ON
}

/// `int security_socket_post_create(struct socket *sock, int family, int type, int protocol, int kern)`: zero, or an
/// errno for which the socket is given up.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/security_socket_post_create")]
fn ssa_created(ctx: *mut c_void) -> i32 {
    let ctx = FEntryContext::new(ctx);
    let thread = bpf_get_current_pid_tgid();
    // A socket of the kernel's own passes no cgroup hook.
    if ctx.arg::<i32>(4) != 0 || SOCKET_CALLS.get_ptr_mut(thread).is_none() {
        return GO_ON;
    }
    remove_mark(thread);
    -errno::EPROTONOSUPPORT
}

/// `socket(2)` of a service: takes the thread's mark and makes the socket a TLS socket. `ENOBUFS` if it
/// can't be.
#[cgroup_sock(sock_create)]
fn ssa_create(ctx: SockContext) -> i32 {
    let thread = bpf_get_current_pid_tgid();
    if SOCKET_CALLS.get_ptr_mut(thread).is_none() {
        return ALLOW;
    }
    remove_mark(thread);
    let sk = ctx.sock;
    if !is_tcp(sk) {
        return deny(errno::EPROTONOSUPPORT);
    }
    let Some(socket) = make_socket(sk, cgroups::of_caller().service) else { return deny(errno::ENOBUFS) };
    socket.by_protocol = 1;
    ALLOW
}

/// Removes the mark of a thread. Absent is as good.
#[inline(always)]
fn remove_mark(thread: u64) {
    if SOCKET_CALLS.get_ptr_mut(thread).is_some() {
        let _there = SOCKET_CALLS.remove(thread);
    }
}
