//! `sock_ops`: events of a TLS socket's life. A held connect is over, a listener begins or ends, a socket comes out
//! of one.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, bpf_sock, bpf_sock_ops,
    },
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    macros::sock_ops,
    programs::SockOpsContext,
};
use ssa_common::{
    context::Context,
    event::{EventKind, HoldEnded, ListenStatus, Listening},
    limits::Counter,
    phase::{Outcome, TcpState},
    rule::{Action, Traffic},
    socket::{Endpoint, Socket},
    steer::{FourTuple, LegKey},
};

use crate::{
    address::{AF_INET, bytes, mapped, read, read_words},
    cgroups,
    ctx::copy_words,
    lifecycle::{register, unregister},
    maps::{
        BIND_CALLERS, CONTEXTS, EVENTS, LEGS, LISTENING, count, delete_socket, is_subflow, make_socket_by_rule,
        socket_of, storage,
    },
    rules,
};

/// Observes only, never refuses. A lost event of a connect means that the agent repeats its verdict in vain for a
/// while; of a listener, that the agent finds it a moment later.
#[sock_ops]
fn ssa_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => on_connect(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => on_listen(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => on_accept(&ctx),
        BPF_SOCK_OPS_STATE_CB => on_state(&ctx),
        _ => (),
    }
    0
}

/// A TLS socket connects: asks the kernel to call again at changes of its state.
#[inline(always)]
fn on_connect(ctx: &SockOpsContext) {
    if sk_of(ctx).and_then(socket_of).is_some() {
        // It can only fail for a socket that is no full socket, which no connecting one is.
        let _full = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
    }
}

/// `listen(2)` was called: enters a TLS socket into `LISTENING` and tells the agent.
#[inline(always)]
fn on_listen(ctx: &SockOpsContext) {
    let (family, at) = (read!(ctx.ops, family), local(ctx.ops));
    let Some(sk) = sk_of(ctx) else { return };
    let socket = match socket_of(sk) {
        Some(socket) if socket.by_rule == 0 => socket,
        found => match by_rule(ctx, sk, &at) {
            Some(socket) => socket,
            None if found.is_some() => {
                make_plain(sk);
                return;
            }
            None => return,
        },
    };
    let _full = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
    let record = Listening {
        kind: EventKind::LISTENING,
        status: if socket.by_rule == 0 { ListenStatus::BY_OPTIONS } else { ListenStatus::BY_RULE },
        id: socket.id,
        context: socket.context,
        caller: socket.caller,
        at,
        family,
        attempt: socket.attempt,
        // SAFETY: the helper takes the hook's context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
    };
    if LISTENING.insert(socket.id, &record, 0).is_err() {
        count(Counter::NoRoom, 1);
    }
    report(record);
}

/// Makes a socket that listens a TLS socket, if a rule says so, or may: its cgroup may be undecided. If
/// there is no room, ingress keeps clients out by the rule alone.
#[inline(always)]
fn by_rule(ctx: &SockOpsContext, sk: *mut bpf_sock, at: &Endpoint) -> Option<&'static mut Socket> {
    let binder = storage(&raw const BIND_CALLERS, sk, 0)?;
    let decision = cgroups::of_earlier(binder.cgroup);
    let action = rules::of(&decision, Traffic::IN_TCP, at);
    if is_subflow(sk) || (action != Action::TLS && action != Action::HELD && action != Action::CLOSED) {
        return None;
    }
    let socket = match socket_of(sk) {
        Some(socket) => socket,
        None => make_socket_by_rule(sk, decision.service)?,
    };
    if socket.id == 0 {
        let mut caller = *binder;
        caller.service = socket.service;
        // SAFETY: the helper takes the hook's context.
        caller.netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        if register(socket, caller).is_err() {
            return None;
        }
    }
    Some(socket)
}

/// Makes a TLS socket a plain one, and clears what there is of it.
#[inline(always)]
fn make_plain(sk: *mut bpf_sock) {
    if let Some(socket) = socket_of(sk) {
        unregister(socket);
        delete_socket(sk);
    }
}

/// A connection to a listener is established: it can only be the agent's. What will come out of `accept`
/// gets the id and the answers that the agent has prepared, and settings of its own.
#[inline(always)]
fn on_accept(ctx: &SockOpsContext) {
    // VERIFIER: all of the context first, as in `steer.rs`.
    let (target, source) = (local(ctx.ops), remote(ctx.ops));
    let Some(sk) = sk_of(ctx) else { return };
    let Some(socket) = socket_of(sk) else { return };
    let key = LegKey {
        netns: socket.caller.netns,
        tuple: FourTuple {
            source: source.addr,
            target: target.addr,
            source_port: source.port,
            target_port: target.port,
        },
        reserved: 0,
    };
    // SAFETY: the value is read within this hook.
    let id = unsafe { LEGS.get(key) }.copied().unwrap_or(0);
    if id == 0 && socket.by_rule != 0 {
        // The rule is no more, and the connection plain.
        return delete_socket(sk);
    }
    let _absent = LEGS.remove(key);
    let _full = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
    let settings = socket.context;
    socket.id = id;
    socket.context = id;
    socket.attempt = 1;
    socket.outcome = Outcome::ESTABLISHED;
    socket.reason = 0;
    socket.accepted = 1;
    copy_context(settings, id);
}

/// Copies a listener's settings into a context of the accepted socket's own. Full: counted, and the socket has none.
#[inline(always)]
fn copy_context(from: u64, id: u64) {
    let Some(settings) = CONTEXTS.get_ptr_mut(from) else { return };
    // SAFETY: a live value of the map; the kernel copies it.
    if CONTEXTS.insert(id, unsafe { &*settings }, 0).is_err() {
        count(Counter::NoRoom, 1);
        return;
    }
    let Some(own) = CONTEXTS.get_ptr_mut(id) else { return };
    // SAFETY: a live value of the map, whose id nobody else knows yet.
    let own: &mut Context = unsafe { &mut *own };
    own.id = id;
    own.refs = 1;
    own.frozen = 1;
}

/// The state of a TLS socket has changed: a hold has ended, a connection was reset, or a listener ends.
#[inline(always)]
fn on_state(ctx: &SockOpsContext) {
    let (old, new) = (TcpState::from_kernel(ctx.arg(0)), TcpState::from_kernel(ctx.arg(1)));
    // An orderly end goes through other states.
    let reset = new == TcpState::CLOSE && (old == TcpState::ESTABLISHED || old == TcpState::CLOSE_WAIT);
    if old != TcpState::SYN_SENT && old != TcpState::LISTEN && !reset {
        return;
    }
    let Some(socket) = sk_of(ctx).and_then(socket_of) else { return };
    if reset {
        socket.outcome = Outcome::RESET;
        return;
    }
    if old == TcpState::LISTEN {
        return on_listen_end(socket);
    }
    socket.outcome = if new == TcpState::ESTABLISHED { Outcome::ESTABLISHED } else { Outcome::FAILED };
    match EVENTS.reserve_untyped::<HoldEnded>(0) {
        Some(mut event) => {
            event.write(HoldEnded {
                kind: EventKind::HOLD_ENDED,
                attempt: socket.attempt,
                id: socket.id,
                tcp_state: new,
                reserved: 0,
            });
            event.submit(0);
        }
        None => count(Counter::EventsLost, 1),
    }
}

/// A listener was shut down or closed: takes it out of `LISTENING` and tells the agent.
#[inline(always)]
fn on_listen_end(socket: &Socket) {
    let _absent = LISTENING.remove(socket.id);
    report(Listening {
        kind: EventKind::LISTENING,
        status: ListenStatus::ENDED,
        id: socket.id,
        context: socket.context,
        caller: socket.caller,
        at: Endpoint::UNSPECIFIED,
        family: 0,
        attempt: socket.attempt,
        cookie: 0,
    });
}

/// Sends the agent a [`Listening`] event. Full: counted; the agent finds the listener in `LISTENING`.
#[inline(always)]
fn report(record: Listening) {
    match EVENTS.reserve_untyped::<Listening>(0) {
        Some(mut event) => {
            copy_words::<Listening, 13>(event.as_mut_ptr(), &raw const record);
            event.submit(0);
        }
        None => count(Counter::EventsLost, 1),
    }
}

/// Address and port of this side.
#[inline(always)]
fn local(ops: *mut bpf_sock_ops) -> Endpoint {
    let v4 = mapped(read!(ops, local_ip4));
    let v6 = bytes(read_words!(ops, local_ip6));
    let addr = if read!(ops, family) == AF_INET { v4 } else { v6 };
    Endpoint { addr, port: read!(ops, local_port) as u16, reserved: 0, scope: 0 }
}

/// Address and port of the other side.
#[inline(always)]
fn remote(ops: *mut bpf_sock_ops) -> Endpoint {
    let v4 = mapped(read!(ops, remote_ip4));
    let v6 = bytes(read_words!(ops, remote_ip6));
    let addr = if read!(ops, family) == AF_INET { v4 } else { v6 };
    // Network byte order, in 4 bytes.
    Endpoint { addr, port: u32::from_be(read!(ops, remote_port)) as u16, reserved: 0, scope: 0 }
}

/// Socket of the event; none if it is no full socket.
#[inline(always)]
fn sk_of(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: the context outlives the hook; a union with one member.
    let sk = unsafe { core::ptr::read_volatile(&raw const (*ctx.ops).__bindgen_anon_2.sk) };
    if sk.is_null() { None } else { Some(sk) }
}
