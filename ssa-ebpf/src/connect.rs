//! `connect(2)`: remembers the destination and goes to a virtual address, where the agent answers.
//!
//! The attached hooks are the guards: on their own they refuse every TLS socket. Only the tail call
//! into the program that a living agent has put into `LIVE_*` can let one connect.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    helpers::generated::{bpf_getsockopt, bpf_setsockopt},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use ssa_common::{
    connection::Connection,
    limits::{Counter, SYN_RETRIES, VIRTUAL_PORT, VIRTUAL_PREFIX},
    peer_option::Family,
    phase::Outcome,
    reason::Reason,
    rule::{Action, Traffic},
    socket::{Endpoint, Socket},
};

use crate::{
    address::AF_INET,
    caller::caller,
    cgroups,
    ctx::{AF_INET6, IPPROTO_TCP, SockAddr, bound, is_tcp, is_udp, words},
    lifecycle::{register, unregister},
    maps::{
        CONNECTIONS, FAST_OPEN, LIVE_CONNECT4, LIVE_CONNECT6, count, delete_socket, is_barred, is_subflow,
        make_socket_by_rule, move_socket, mptcp_socket_of, socket_of, storage,
    },
    peer_options,
    refusal::{AGENT_AWAY, ALLOW, NO_ROOM, Refusal, deny, errno, refuse},
    rules,
};

/// `connect(2)` over IPv4. A TLS socket gets `ENOTCONN` unless the agent lives; what a rule denies, `EACCES`.
#[cgroup_sock_addr(connect4)]
fn ssa_connect4(ctx: SockAddrContext) -> i32 {
    let addr = SockAddr::new(&ctx);
    let socket = match tls_socket(addr.sk(), &addr.endpoint4()) {
        Ok(socket) => socket,
        Err(verdict) => return verdict,
    };
    // SAFETY: the array holds programs of this same type and attach type.
    unsafe { LIVE_CONNECT4.tail_call(&ctx, 0) };
    fail(socket, AGENT_AWAY)
}

/// `connect(2)` over IPv6, and to v4-mapped addresses. As [`ssa_connect4`].
#[cgroup_sock_addr(connect6)]
fn ssa_connect6(ctx: SockAddrContext) -> i32 {
    let addr = SockAddr::new(&ctx);
    let socket = match tls_socket(addr.sk(), &addr.endpoint6()) {
        Ok(socket) => socket,
        Err(verdict) => return verdict,
    };
    // SAFETY: the array holds programs of this same type and attach type.
    unsafe { LIVE_CONNECT6.tail_call(&ctx, 0) };
    fail(socket, AGENT_AWAY)
}

/// Runs after [`ssa_connect4`] while the agent lives: `EPROTO` without a host name, `ENOBUFS`
/// without room, `EOPNOTSUPP` with TCP Fast Open.
#[cgroup_sock_addr(connect4)]
fn ssa_live_conn4(ctx: SockAddrContext) -> i32 {
    let addr = SockAddr::new(&ctx);
    let Some(socket) = socket_of(addr.sk()) else { return ALLOW };
    match begin(&ctx, socket, AF_INET, addr.endpoint4(), Family::V4) {
        Ok(()) => {
            addr.set4(virtual4(socket), VIRTUAL_PORT);
            ALLOW
        }
        Err(refusal) => fail(socket, refusal),
    }
}

/// As [`ssa_live_conn4`], after [`ssa_connect6`].
#[cgroup_sock_addr(connect6)]
fn ssa_live_conn6(ctx: SockAddrContext) -> i32 {
    let addr = SockAddr::new(&ctx);
    let Some(socket) = socket_of(addr.sk()) else { return ALLOW };
    let orig_dst = addr.endpoint6();
    let mapped = is_mapped(&orig_dst);
    let over = if mapped { Family::V4 } else { Family::V6 };
    match begin(&ctx, socket, AF_INET6, orig_dst, over) {
        Ok(()) => {
            if mapped {
                addr.set6([0, 0, 0xffff_u32.to_be(), virtual4(socket)], VIRTUAL_PORT);
            } else {
                // ::1 is one address only: the ports below 1024 make room for more connections.
                let port = VIRTUAL_PORT + (spread(socket) % 1000) as u16;
                addr.set6([0, 0, 0, 1_u32.to_be()], port);
            }
            ALLOW
        }
        Err(refusal) => fail(socket, refusal),
    }
}

/// Finds the TLS socket that connects, by its own options or by a rule for this destination, and makes one where the
/// rule asks for it, or could: the agent decides then. Else the verdict of the hook.
#[inline(always)]
fn tls_socket(sk: *mut bpf_sock, to: &Endpoint) -> Result<&'static mut Socket, i32> {
    let found = socket_of(sk);
    if let Some(socket) = found
        && socket.by_rule == 0
    {
        return Ok(socket);
    }
    if is_udp(sk) {
        return Err(rules::verdict(rules::of(&cgroups::of_caller(), Traffic::OUT_UDP, to)));
    }
    if !is_tcp(sk) {
        return Err(not_tls(sk));
    }
    if is_barred(sk) {
        return Err(deny(errno::EPROTO));
    }
    let decision = cgroups::of_caller();
    let action = rules::of(&decision, Traffic::OUT_TCP, to);
    if action != Action::TLS && action != Action::HELD {
        if let Some(socket) = socket_of(sk) {
            // It went elsewhere before.
            unregister(socket);
            delete_socket(sk);
        }
        return Err(if action == Action::PLAIN { not_tls(sk) } else { rules::verdict(action) });
    }
    if is_subflow(sk) {
        return Err(deny(errno::EPROTO));
    }
    let socket = match socket_of(sk) {
        Some(socket) => socket,
        None => make_socket_by_rule(sk, decision.service).ok_or_else(|| deny(errno::ENOBUFS))?,
    };
    // It may have been made in another service, or before this one was decided on.
    move_socket(socket, decision.service);
    Ok(socket)
}

/// Verdict for a socket that is no TLS socket: it connects, unless it is the subflow of a Multipath TCP socket on
/// which an option was tried (and refused): that one must not speak plaintext either.
#[inline(always)]
fn not_tls(sk: *mut bpf_sock) -> i32 {
    match mptcp_socket_of(sk) {
        None => ALLOW,
        Some(socket) => fail(socket, Refusal::new(errno::EPROTO, Reason::NotOffered)),
    }
}

/// Ends a connect at once, with a failed attempt.
#[inline(always)]
fn fail(socket: &mut Socket, refusal: Refusal) -> i32 {
    socket.outcome = Outcome::FAILED;
    refuse(Some(socket), refusal)
}

/// Starts an attempt over IPv4 or IPv6 (`over`), of a socket of `family`. On an error nothing has changed.
#[inline(always)]
fn begin(
    ctx: &SockAddrContext,
    socket: &mut Socket,
    family: u32,
    orig_dst: Endpoint,
    over: Family,
) -> Result<(), Refusal> {
    let sk = SockAddr::new(ctx).sk();
    let caller = caller(ctx.as_ptr(), socket.service);
    if socket.id == 0 && socket.by_rule != 0 {
        register(socket, caller)?;
    }
    // Without an id every set was refused because the agent was away: nothing is known that could be verified.
    if socket.id == 0 || (socket.hostname.len == 0 && socket.by_rule == 0) {
        return Err(Refusal::new(errno::EPROTO, Reason::NoHostName));
    }
    if storage(&raw const FAST_OPEN, sk, 0).is_some_and(|on| *on != 0) {
        return Err(Refusal::new(errno::EOPNOTSUPP, Reason::FastOpen));
    }
    let attempt = socket.attempt + 1;
    new_answers(socket.id, attempt)?;
    socket.attempt = attempt;
    socket.outcome = Outcome::STARTED;
    socket.reason = 0;
    socket.family = family;
    socket.caller = caller;
    socket.orig_dst = orig_dst;
    socket.bound = bound(sk, family);
    peer_options::record(ctx, socket, over);
    peer_options::unbind_interface(ctx, sk, socket);
    limit_syns(ctx);
    debug!(ctx, "connect: attempt {} of {}", attempt, socket.id);
    Ok(())
}

/// Puts an empty record of answers in the place of the last attempt's.
#[inline(always)]
fn new_answers(id: u64, attempt: u32) -> Result<(), Refusal> {
    static PENDING: Connection = Connection::pending(0);
    if CONNECTIONS.insert(id, &PENDING, 0).is_err() {
        count(Counter::NoRoom, 1);
        return Err(NO_ROOM);
    }
    let connection = CONNECTIONS.get_ptr_mut(id).ok_or(NO_ROOM)?;
    // SAFETY: a live value of the map; only this socket's hooks, under its lock, write it before the
    // agent has heard of the attempt.
    unsafe { (*connection).attempt = attempt };
    Ok(())
}

/// Lowers the count of SYNs that are sent again, so that a hung agent is noticed in about a minute.
/// An application's own, lower count stays. On failure the kernel's default holds.
#[inline(always)]
fn limit_syns(ctx: &SockAddrContext) {
    const TCP_SYNCNT: i32 = 7;
    let mut retries: i32 = 0;
    let value: *mut core::ffi::c_void = (&raw mut retries).cast();
    // SAFETY: the helpers read and write 4 bytes of the stack.
    unsafe {
        let read = bpf_getsockopt(ctx.as_ptr(), IPPROTO_TCP as i32, TCP_SYNCNT, value, 4);
        if read == 0 && retries > SYN_RETRIES {
            value.cast::<i32>().write_volatile(SYN_RETRIES);
            bpf_setsockopt(ctx.as_ptr(), IPPROTO_TCP as i32, TCP_SYNCNT, value, 4);
        }
    }
}

/// Virtual address of an attempt over IPv4, network byte order: one of many, so that no pair of address and port runs
/// out of source ports.
#[inline(always)]
fn virtual4(socket: &Socket) -> u32 {
    let spread = spread(socket);
    u32::from_ne_bytes([VIRTUAL_PREFIX[0], VIRTUAL_PREFIX[1], (spread >> 8) as u8, spread as u8])
}

/// Sixteen bits of the random id, other ones at each attempt.
#[inline(always)]
fn spread(socket: &Socket) -> u64 {
    (socket.id >> 16).wrapping_add(u64::from(socket.attempt)) & 0xffff
}

/// True if the address is an IPv4 address, v4-mapped.
#[inline(always)]
fn is_mapped(endpoint: &Endpoint) -> bool {
    let words = words(endpoint.addr);
    words[0] == 0 && words[1] == 0 && words[2] == 0xffff_u32.to_be()
}
