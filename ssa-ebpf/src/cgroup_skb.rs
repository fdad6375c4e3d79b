//! `cgroup_skb` egress and ingress: SYNs of TLS sockets are held, and nobody but the agent may answer them.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    helpers::generated::{
        bpf_ktime_get_ns, bpf_sk_fullsock, bpf_sk_lookup_tcp, bpf_sk_release, bpf_skb_cgroup_id, bpf_skb_load_bytes,
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use ssa_common::{
    event::{EventKind, Held, Parked},
    limits::{Counter, PARKED_MAX, SYN_BYTES},
    peer_option::SLOTS,
    phase::TcpState,
    rule::{Action, Traffic},
    socket::{HostName, Socket},
    steer::{FourTuple, LegKey},
};

use crate::{
    address::{mapped, read},
    cgroups::{self, Decision},
    ctx::{bound, copy_words, tcp_state},
    dns,
    maps::{AGENT_LISTENERS, EVENTS, LEGS, PARKED, count, is_barred, mptcp_socket_of, socket_of, storage},
    refusal::{ALLOW, DENY},
    rules,
};

/// Holds every SYN of a TLS socket, before and after a verdict: only the agent's own copy travels.
/// Passes everything else.
#[cgroup_skb(egress)]
fn ssa_egress(ctx: SkBuffContext) -> i32 {
    let Some((sk, _state)) = tls_candidate(&ctx, TcpState::SYN_SENT, true) else { return ALLOW };
    let Some(socket) = socket_of(sk) else { return ALLOW };
    count(Counter::SynsHeld, 1);
    if report(&ctx, socket).is_none() {
        // It will be reported when it is sent again.
        count(Counter::EventsLost, 1);
    }
    DENY
}

/// Keeps every packet from a listening TLS socket but those of a leg that the agent has announced, and
/// from a connecting one all but a reset and the agent's own SYN-ACK: a local process that has taken
/// the virtual address, or that opens simultaneously, must not pass for the agent.
#[cgroup_skb(ingress)]
fn ssa_ingress(ctx: SkBuffContext) -> i32 {
    let Some((sk, state)) = tls_candidate(&ctx, TcpState::LISTEN, false) else { return ALLOW };
    let netns = match socket_of(sk) {
        Some(socket) if socket.by_rule == 0 || state != TcpState::LISTEN => socket.caller.netns,
        Some(socket) if is_ruled(sk, &cgroups::of_earlier(socket.caller.cgroup)) => socket.caller.netns,
        // The rule is no more.
        Some(_) => return ALLOW,
        None if mptcp_socket_of(sk).is_some() || is_barred(sk) => 0,
        None if state == TcpState::LISTEN && is_ruled(sk, &cgroups::of_packet(ctx.skb.skb)) => 0,
        None => return ALLOW,
    };
    let may = if state == TcpState::SYN_SENT { from_agent(&ctx) } else { is_leg(&ctx, netns) };
    if may {
        return ALLOW;
    }
    if state == TcpState::LISTEN
        && let Some(socket) = socket_of(sk)
    {
        park(&ctx, socket);
    }
    count(Counter::PacketsDropped, 1);
    DENY
}

/// Parks a SYN that came to a listener before anybody served it: once the agent does, it sends the SYN again. Others'
/// packets come later, and go to the agent.
#[inline(always)]
fn park(ctx: &SkBuffContext, socket: &mut Socket) {
    if socket.id == 0 || socket.parked >= PARKED_MAX {
        return;
    }
    // Not atomic: a few more do no harm.
    socket.parked += 1;
    let Some(mut event) = PARKED.reserve_untyped::<Parked>(0) else { return };
    let parked = event.as_mut_ptr();
    // SAFETY: the entry is this program's until it is submitted; each field is written.
    let loaded = unsafe {
        (*parked).id = socket.id;
        (*parked).time = bpf_ktime_get_ns();
        (*parked).reserved = 0;
        load_syn(ctx, &raw mut (*parked).syn, &raw mut (*parked).syn_len)
    };
    if loaded { event.submit(0) } else { event.discard(0) }
}

/// Copies the headers of a packet, and their length; false if it is shorter than headers are.
///
/// # Safety
///
/// Both must be valid to be written.
#[inline(always)]
unsafe fn load_syn(ctx: &SkBuffContext, syn: *mut [u8; SYN_BYTES], syn_len: *mut u32) -> bool {
    let packet = read!(ctx.skb.skb, len);
    let len = if packet > SYN_BYTES as u32 { SYN_BYTES as u32 } else { packet };
    // SAFETY: as the caller has it.
    unsafe {
        *syn_len = len;
        copy_words::<[u8; SYN_BYTES], { SYN_BYTES / 8 }>(syn, &raw const NO_BYTES);
        // VERIFIER: a length that may be zero is refused ("R4 invalid zero-sized read"). 6.1 follows the bounds
        // only if the register that is compared is the one that is passed, in 64 bits, and if LLVM has not
        // made one comparison of two.
        let len = core::hint::black_box(u64::from(len));
        if len < SYN_LEAST {
            return false;
        }
        let len = core::hint::black_box(len);
        len <= SYN_BYTES as u64 && bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, syn.cast(), len as u32) == 0
    }
}

/// True if a rule keeps plaintext from a listener, or may: it can have begun to listen before there was the rule.
#[inline(always)]
fn is_ruled(sk: *mut bpf_sock, decision: &Decision) -> bool {
    // The agent's own listeners are sockets of the service, too.
    decision.rules != 0
        && rules::of(decision, Traffic::IN_TCP, &bound(sk, read!(sk, family))) != Action::PLAIN
        && storage(&raw const AGENT_LISTENERS, sk, 0).is_none()
}

/// Socket and state of a packet, if it is connecting (or in `other`). All others cost these few
/// instructions.
#[inline(always)]
fn tls_candidate(ctx: &SkBuffContext, other: TcpState, egress: bool) -> Option<(*mut bpf_sock, TcpState)> {
    let sk = skb_sk(ctx.skb.skb)?;
    let state = tcp_state(sk);
    if state == TcpState::CLOSE || state == TcpState::ESTABLISHED {
        // Those of UDP sockets.
        dns::observe(ctx, sk, egress);
        return None;
    }
    if state != TcpState::SYN_SENT && state != other {
        return None;
    }
    // SAFETY: the helper checks `sk`.
    let full = unsafe { bpf_sk_fullsock(sk) };
    if full.is_null() { None } else { Some((full, state)) }
}

/// Socket of a packet; none if it has none.
#[inline(always)]
fn skb_sk(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    // SAFETY: the context outlives the hook; a union with one member.
    let sk = unsafe { core::ptr::read_volatile(&raw const (*skb).__bindgen_anon_2.sk) };
    if sk.is_null() { None } else { Some(sk) }
}

/// Sends the agent a [`Held`] event, with the SYN's headers. None, and nothing is sent, if the ring buffer is full or
/// the packet shorter than headers are.
#[inline(always)]
fn report(ctx: &SkBuffContext, socket: &Socket) -> Option<()> {
    let mut event = EVENTS.reserve_untyped::<Held>(0)?;
    let held = event.as_mut_ptr();
    // SAFETY: the entry is this program's until it is submitted; each field is written.
    let loaded = unsafe {
        (*held).kind = EventKind::HELD;
        (*held).attempt = socket.attempt;
        (*held).id = socket.id;
        (*held).context = socket.context;
        (*held).caller = socket.caller;
        (*held).cgroup = bpf_skb_cgroup_id(ctx.skb.skb);
        (*held).orig_dst = socket.orig_dst;
        (*held).bound = socket.bound;
        (*held).family = socket.family;
        (*held).interface = socket.interface;
        (*held).by_rule = socket.by_rule;
        copy_words::<[i32; SLOTS], { SLOTS / 2 }>(&raw mut (*held).peer_options, &raw const socket.peer_options);
        copy_words::<HostName, 33>(&raw mut (*held).hostname, &raw const socket.hostname);
        load_syn(ctx, &raw mut (*held).syn, &raw mut (*held).syn_len)
    };
    if !loaded {
        event.discard(0);
        return None;
    }
    event.submit(0);
    Some(())
}

/// Least length of a SYN, in bytes: an IPv4 header and a TCP header without options.
const SYN_LEAST: u64 = 40;

/// Zeros for the room after a SYN.
static NO_BYTES: [u8; SYN_BYTES] = [0; SYN_BYTES];

/// True if a packet to a connecting socket is a reset, or a SYN-ACK that the agent's listener sent.
#[inline(always)]
fn from_agent(ctx: &SkBuffContext) -> bool {
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    let Ok(version) = ctx.load::<u8>(0) else { return false };
    let Some((tuple, size, flags)) = (if version >> 4 == 4 { tuple4(ctx, version) } else { tuple6(ctx) }) else {
        return false;
    };
    if flags & RST != 0 {
        return true;
    }
    if flags & (SYN | ACK) != SYN | ACK {
        return false;
    }
    is_listener(ctx, tuple, size)
}

/// True if a packet to a listener is of a leg that the agent has announced: not only by its port, which a
/// remote client chooses, too.
#[inline(always)]
fn is_leg(ctx: &SkBuffContext, netns: u64) -> bool {
    let Ok(version) = ctx.load::<u8>(0) else { return false };
    let Some(tuple) = (if version >> 4 == 4 { leg4(ctx, version) } else { leg6(ctx) }) else { return false };
    // SAFETY: only the entry's presence matters.
    unsafe { LEGS.get(LegKey { netns, tuple, reserved: 0 }) }.is_some()
}

/// Four-tuple of a packet over IPv4; none if it is cut short.
#[inline(always)]
fn leg4(ctx: &SkBuffContext, version: u8) -> Option<FourTuple> {
    let transport = usize::from(version & 0x0f) * 4;
    Some(FourTuple {
        source: mapped(ctx.load(12).ok()?),
        target: mapped(ctx.load(16).ok()?),
        source_port: u16::from_be(ctx.load(transport).ok()?),
        target_port: u16::from_be(ctx.load(transport + 2).ok()?),
    })
}

/// Four-tuple of a packet over IPv6; none if it is cut short or has extension headers.
#[inline(always)]
fn leg6(ctx: &SkBuffContext) -> Option<FourTuple> {
    if ctx.load::<u8>(6).ok()? != NEXT_TCP {
        return None;
    }
    Some(FourTuple {
        source: ctx.load(8).ok()?,
        target: ctx.load(24).ok()?,
        source_port: u16::from_be(ctx.load(40).ok()?),
        target_port: u16::from_be(ctx.load(42).ok()?),
    })
}

/// Next header of a segment without extension headers, of which the kernel sends none on loopback.
const NEXT_TCP: u8 = 6;

/// True if the socket at the other end belongs to a listener of the agent.
#[inline(always)]
fn is_listener(ctx: &SkBuffContext, mut tuple: bpf_sock_tuple, size: u32) -> bool {
    // SAFETY: the helper checks its arguments; the socket is released on the only way out.
    unsafe {
        let sk = bpf_sk_lookup_tcp(ctx.skb.skb.cast(), &raw mut tuple, size, BPF_F_CURRENT_NETNS as i64 as u64, 0);
        if sk.is_null() {
            return false;
        }
        let marked = storage(&raw const AGENT_LISTENERS, sk, 0).is_some();
        bpf_sk_release(sk.cast());
        marked
    }
}

/// Addresses of the other direction over IPv4, as its own SYN had them: (tuple, its size in bytes, TCP flags).
#[inline(always)]
fn tuple4(ctx: &SkBuffContext, version: u8) -> Option<(bpf_sock_tuple, u32, u8)> {
    let transport = usize::from(version & 0x0f) * 4;
    let mut tuple: bpf_sock_tuple = empty();
    tuple.__bindgen_anon_1.ipv4.saddr = ctx.load(16).ok()?;
    tuple.__bindgen_anon_1.ipv4.daddr = ctx.load(12).ok()?;
    tuple.__bindgen_anon_1.ipv4.sport = ctx.load(transport + 2).ok()?;
    tuple.__bindgen_anon_1.ipv4.dport = ctx.load(transport).ok()?;
    Some((tuple, 12, ctx.load(transport + 13).ok()?))
}

/// As [`tuple4`], over IPv6.
#[inline(always)]
fn tuple6(ctx: &SkBuffContext) -> Option<(bpf_sock_tuple, u32, u8)> {
    if ctx.load::<u8>(6).ok()? != NEXT_TCP {
        return None;
    }
    let mut tuple: bpf_sock_tuple = empty();
    tuple.__bindgen_anon_1.ipv6.saddr = ctx.load(24).ok()?;
    tuple.__bindgen_anon_1.ipv6.daddr = ctx.load(8).ok()?;
    tuple.__bindgen_anon_1.ipv6.sport = ctx.load(42).ok()?;
    tuple.__bindgen_anon_1.ipv6.dport = ctx.load(40).ok()?;
    Some((tuple, 36, ctx.load(53).ok()?))
}

/// A tuple of zeros.
#[inline(always)]
const fn empty() -> bpf_sock_tuple {
    // SAFETY: plain integers.
    unsafe { core::mem::zeroed() }
}
