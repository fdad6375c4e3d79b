//! Options at other levels that hold on the peer leg as well.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    helpers::generated::{bpf_getsockopt, bpf_setsockopt},
    programs::SockAddrContext,
};
use ssa_common::{
    event::{Changed, EventKind},
    limits::Counter,
    peer_option::{ABSENT, Family, PEER_OPTIONS},
    phase::Phase,
    socket::Socket,
};

use crate::{
    address::read,
    ctx::{SOL_SOCKET, Sockopt, phase_of},
    maps::{EVENTS, count, socket_of},
};

/// Binds to an interface by name (`include/uapi/asm-generic/socket.h`).
const SO_BINDTODEVICE: i32 = 25;
/// Binds to an interface by index (`include/uapi/asm-generic/socket.h`).
const SO_BINDTOIFINDEX: i32 = 62;

/// Records the options of a socket that connects over IPv4 or IPv6. The kernel has checked them.
#[inline(always)]
pub(crate) fn record(ctx: &SockAddrContext, socket: &mut Socket, over: Family) {
    for (slot, option) in PEER_OPTIONS.iter().enumerate() {
        let mut value = ABSENT;
        if option.family == Family::Any || option.family == over {
            let to: *mut core::ffi::c_void = (&raw mut value).cast();
            // SAFETY: the helper writes 4 bytes of the stack, or fails.
            if unsafe { bpf_getsockopt(ctx.as_ptr(), option.level, option.number, to, 4) } != 0 {
                value = ABSENT;
            }
        }
        // SAFETY: inside the array, which has a slot for each option; volatile, lest the loop become
        // a copy of what is on the stack.
        unsafe { (&raw mut socket.peer_options).cast::<i32>().add(slot).write_volatile(value) };
    }
}

/// Records the interface that a socket is bound to, and unbinds it: over a real interface nothing goes
/// to loopback. The peer leg is bound to it instead.
#[inline(always)]
pub(crate) fn unbind_interface(ctx: &SockAddrContext, sk: *mut bpf_sock, socket: &mut Socket) {
    let interface = read!(sk, bound_dev_if);
    if interface == 0 {
        return;
    }
    socket.interface = interface;
    let mut none = 0_i32;
    // SAFETY: the helper reads 4 bytes of the stack. KERNEL: from 6.1; if it fails, the connect times
    // out.
    unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_BINDTOIFINDEX, (&raw mut none).cast(), 4) };
}

/// True if a socket that was bound to an interface is about to be bound to another, or to none: only the
/// kernel knows who may do that, and it does not know of the interface any more.
#[inline(always)]
pub(crate) fn changes_interface(opt: Sockopt) -> bool {
    let number = opt.number();
    opt.level() == SOL_SOCKET
        && (number == SO_BINDTODEVICE || number == SO_BINDTOIFINDEX)
        && socket_of(opt.sk()).is_some_and(|socket| socket.interface != 0)
}

/// Reports an option that is set after `connect`. A lost event is counted: the peer leg
/// then keeps what it has.
#[inline(always)]
pub(crate) fn report_change(opt: Sockopt) {
    let (level, number) = (opt.level(), opt.number());
    let mut slot = PEER_OPTIONS.len();
    for (index, option) in PEER_OPTIONS.iter().enumerate() {
        if option.follows && option.level == level && option.number == number {
            slot = index;
        }
    }
    if slot == PEER_OPTIONS.len() {
        return;
    }
    let sk = opt.sk();
    let Some(socket) = socket_of(sk) else { return };
    if !matches!(phase_of(sk, socket), Phase::Connecting | Phase::Connected) {
        return;
    }
    // One byte is enough for IP_TOS (ip(7)).
    let value = if opt.len() >= 4 { opt.int() } else { opt.byte(0).map(i32::from) };
    let Some(value) = value else { return };
    match EVENTS.reserve_untyped::<Changed>(0) {
        Some(mut event) => {
            event.write(Changed { kind: EventKind::CHANGED, slot: slot as u32, id: socket.id, value, reserved: 0 });
            event.submit(0);
        }
        None => count(Counter::EventsLost, 1),
    }
}
