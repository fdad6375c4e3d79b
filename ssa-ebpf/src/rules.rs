//! The administrator's rules for sockets that set no options of TLS, with the hooks of bind(2) and sendmsg(2).

use aya_ebpf::{
    EbpfContext as _, bindings::BPF_SK_STORAGE_GET_F_CREATE, btf_maps::lpm_trie::Key, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use ssa_common::{
    rule::{ADDRESS_BITS, Action, AddressKey, PORT_BITS, PortKey, Traffic},
    socket::Endpoint,
};

use crate::{
    address::bytes,
    caller::caller,
    cgroups::{self, Decision},
    ctx::{SockAddr, is_tcp, is_udp, words},
    maps::{BIND_CALLERS, RULE_ADDRESSES, RULE_PORTS, is_barred, is_subflow, storage},
    refusal::{ALLOW, deny, errno},
};

/// `sendto(2)` and `sendmsg(2)` on a UDP socket that is not connected: `EACCES` if a rule says so.
#[cgroup_sock_addr(sendmsg4)]
fn ssa_sendmsg4(ctx: SockAddrContext) -> i32 {
    datagram(SockAddr::new(&ctx), SockAddr::new(&ctx).endpoint4())
}

/// As [`ssa_sendmsg4`].
#[cgroup_sock_addr(sendmsg6)]
fn ssa_sendmsg6(ctx: SockAddrContext) -> i32 {
    datagram(SockAddr::new(&ctx), SockAddr::new(&ctx).endpoint6())
}

/// `bind(2)`: a TCP socket may be about to listen.
#[cgroup_sock_addr(bind4)]
fn ssa_bind4(ctx: SockAddrContext) -> i32 {
    bind(&ctx, SockAddr::new(&ctx).endpoint4())
}

/// As [`ssa_bind4`].
#[cgroup_sock_addr(bind6)]
fn ssa_bind6(ctx: SockAddrContext) -> i32 {
    bind(&ctx, SockAddr::new(&ctx).endpoint6())
}

/// Verdict for a datagram, which can't be held: `ENOTCONN` for as long as a rule could deny it.
#[inline(always)]
fn datagram(addr: SockAddr, to: Endpoint) -> i32 {
    if !is_udp(addr.sk()) {
        return ALLOW;
    }
    verdict(of(&cgroups::of_caller(), Traffic::OUT_UDP, &to))
}

/// Verdict of a hook for a socket that no TLS socket is made of: `EACCES`, `ENOTCONN`, or the call goes on.
#[inline(always)]
pub(crate) fn verdict(action: Action) -> i32 {
    match action {
        Action::DENY => deny(errno::EACCES),
        Action::HELD | Action::CLOSED => deny(errno::ENOTCONN),
        _ => ALLOW,
    }
}

/// Remembers the process that binds, and refuses what could never listen. A listener of a cgroup that is undecided may
/// come to be served; until then nothing reaches it.
#[inline(always)]
fn bind(ctx: &SockAddrContext, at: Endpoint) -> i32 {
    let sk = SockAddr::new(ctx).sk();
    // A Multipath TCP socket binds its first subflow.
    if !is_tcp(sk) {
        return ALLOW;
    }
    if is_barred(sk) {
        return deny(errno::EPROTO);
    }
    let decision = cgroups::of_caller();
    if decision.rules == 0 {
        return ALLOW;
    }
    match of(&decision, Traffic::IN_TCP, &at) {
        Action::DENY => return deny(errno::EACCES),
        Action::TLS if is_subflow(sk) => return deny(errno::EPROTO),
        _ => {}
    }
    let Some(binder) = storage(&raw const BIND_CALLERS, sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) else {
        return deny(errno::ENOBUFS);
    };
    *binder = caller(ctx.as_ptr(), decision.service);
    ALLOW
}

/// Action of the rules for a cgroup, of a socket that goes `to` an address, or listens there. [`Action::HELD`] if the
/// cgroup is undecided and a rule could want it.
#[inline(always)]
pub(crate) fn of(decision: &Decision, traffic: Traffic, to: &Endpoint) -> Action {
    if decision.rules == 0 {
        return Action::PLAIN;
    }
    let action = of_set(decision.rules, traffic, to);
    if action == Action::PLAIN {
        return action;
    }
    if decision.undecided {
        return Action::HELD;
    }
    if decision.closed && action == Action::TLS { Action::CLOSED } else { action }
}

/// Action of a set of rules.
#[inline(always)]
fn of_set(set: u32, traffic: Traffic, to: &Endpoint) -> Action {
    let addr = if traffic == Traffic::IN_TCP { to.addr } else { destination(to.addr) };
    let address = Key::new(ADDRESS_BITS + 128, AddressKey { set, addr });
    let Some(groups) = RULE_ADDRESSES.get(&address) else { return Action::PLAIN };
    for group in groups.0 {
        if group == 0 {
            break;
        }
        let port = PortKey { group, traffic, reserved: 0, port: to.port.to_be_bytes() };
        if let Some(action) = RULE_PORTS.get(&Key::new(PORT_BITS + 16, port)) {
            return *action;
        }
    }
    Action::PLAIN
}

/// Address that a connect really goes to: who names no address at all, connects to this machine
/// (`ip_route_output_key`, `tcp_v6_connect`).
#[inline(always)]
fn destination(addr: [u8; 16]) -> [u8; 16] {
    let [first, second, third, last] = words(addr);
    if first | second | last != 0 {
        return addr;
    }
    if third == 0 {
        return bytes([0, 0, 0, 1_u32.to_be()]);
    }
    let v4 = 0xffff_u32.to_be();
    if third == v4 { bytes([0, 0, v4, 0x7f00_0001_u32.to_be()]) } else { addr }
}
