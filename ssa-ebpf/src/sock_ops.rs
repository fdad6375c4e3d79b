//! Tells the agent when a held connect is over: established, refused, or given up.

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB},
    macros::sock_ops,
    programs::SockOpsContext,
};
use ssa_common::{
    event::{Left, kind},
    limits::Counter,
    phase::{outcome, tcp_state},
};

use crate::maps::{EVENTS, count, socket_of};

/// Observes only. A lost event means that the agent repeats its verdict in vain for a while.
#[sock_ops]
fn ssa_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => ask_for_states(&ctx),
        BPF_SOCK_OPS_STATE_CB => state_changed(&ctx),
        _ => (),
    }
    0
}

#[inline(always)]
fn ask_for_states(ctx: &SockOpsContext) {
    if sk_of(ctx).and_then(socket_of).is_some() {
        // It can only fail for a socket that is no full socket, which no connecting one is.
        let _full = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
    }
}

#[inline(always)]
fn state_changed(ctx: &SockOpsContext) {
    let (old, new) = (ctx.arg(0), ctx.arg(1));
    // An orderly end goes through other states.
    let reset = new == tcp_state::CLOSE && (old == tcp_state::ESTABLISHED || old == tcp_state::CLOSE_WAIT);
    if old != tcp_state::SYN_SENT && !reset {
        return;
    }
    let Some(socket) = sk_of(ctx).and_then(socket_of) else { return };
    if reset {
        socket.outcome = outcome::RESET;
        return;
    }
    socket.outcome = if new == tcp_state::ESTABLISHED { outcome::ESTABLISHED } else { outcome::FAILED };
    match EVENTS.reserve_untyped::<Left>(0) {
        Some(mut event) => {
            event.write(Left { kind: kind::LEFT, attempt: socket.attempt, id: socket.id, tcp_state: new, reserved: 0 });
            event.submit(0);
        }
        None => count(Counter::EventsLost, 1),
    }
}

#[inline(always)]
fn sk_of(ctx: &SockOpsContext) -> Option<*mut aya_ebpf::bindings::bpf_sock> {
    // SAFETY: the context outlives the hook; a union with one member.
    let sk = unsafe { core::ptr::read_volatile(&raw const (*ctx.ops).__bindgen_anon_2.sk) };
    if sk.is_null() { None } else { Some(sk) }
}
