//! `getpeername(2)` and `getsockname(2)`: the addresses of the peer leg, not those of the leg to the
//! agent. Without an answer the kernel's own addresses are shown.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use ssa_common::{
    connection::{Connection, State},
    socket::Endpoint,
};

use crate::{
    ctx::{SockAddr, phase_of, words},
    maps::{CONNECTIONS, socket_of},
    refusal::ALLOW,
};

/// `getpeername(2)` and `accept(2)` over IPv4: the peer's address. Never refuses.
#[cgroup_sock_addr(getpeername4)]
fn ssa_peername4(ctx: SockAddrContext) -> i32 {
    show4(&ctx, |connection| connection.peer)
}

/// As [`ssa_peername4`], over IPv6.
#[cgroup_sock_addr(getpeername6)]
fn ssa_peername6(ctx: SockAddrContext) -> i32 {
    show6(&ctx, |connection| connection.peer)
}

/// `getsockname(2)` over IPv4: the peer leg's address on this side. Never refuses.
#[cgroup_sock_addr(getsockname4)]
fn ssa_sockname4(ctx: SockAddrContext) -> i32 {
    show4(&ctx, |connection| connection.local)
}

/// As [`ssa_sockname4`], over IPv6.
#[cgroup_sock_addr(getsockname6)]
fn ssa_sockname6(ctx: SockAddrContext) -> i32 {
    show6(&ctx, |connection| connection.local)
}

/// Puts the endpoint that `pick` chooses in the place of the kernel's, over IPv4.
#[inline(always)]
fn show4(ctx: &SockAddrContext, pick: fn(&Connection) -> Endpoint) -> i32 {
    let addr = SockAddr::new(ctx);
    if let Some(endpoint) = answer(addr, pick) {
        addr.set4(words(endpoint.addr)[3], endpoint.port);
    }
    ALLOW
}

/// As [`show4`], over IPv6.
#[inline(always)]
fn show6(ctx: &SockAddrContext, pick: fn(&Connection) -> Endpoint) -> i32 {
    let addr = SockAddr::new(ctx);
    if let Some(endpoint) = answer(addr, pick) {
        addr.set6(words(endpoint.addr), endpoint.port);
    }
    ALLOW
}

/// Endpoint of the answers, if the socket is connected.
#[inline(always)]
fn answer(addr: SockAddr, pick: fn(&Connection) -> Endpoint) -> Option<Endpoint> {
    let socket = socket_of(addr.sk())?;
    if !phase_of(addr.sk(), socket).has_connection() {
        return None;
    }
    // SAFETY: entries are replaced whole; the reference is used within this hook.
    let connection = unsafe { CONNECTIONS.get(socket.id)? };
    (connection.attempt == socket.attempt && connection.state == State::SECURED).then(|| pick(connection))
}
