//! Questions to name servers and their answers, as far as sockets of the service send and receive them by UDP: a rule may go
//! by the name that a program has resolved. The agent reads and matches them.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_cgroup_id, bpf_skb_load_bytes},
    programs::SkBuffContext,
};
use ssa_common::{
    event::Datagram,
    limits::{Counter, DATAGRAM_BYTES},
    socket::Endpoint,
};

use crate::{
    ctx::{is_udp, mapped, read},
    maps::{NAMES, NAMES_WANTED, count},
};

/// Port of name servers.
const DOMAIN: u16 = 53;
/// Length of the headers of UDP and of IPv6, in bytes.
const UDP_HEADER: usize = 8;
const IPV6_HEADER: usize = 40;
/// Length of the header of a message (RFC 1035, section 4.1.1), in bytes. VERIFIER: 6.1 learns nothing from "not zero".
const HEADER: u64 = 12;

/// Tells the agent of a datagram to a name server, or from one.
#[inline(always)]
pub(crate) fn see(ctx: &SkBuffContext, sk: *mut bpf_sock, egress: bool) {
    if NAMES_WANTED.get(0).is_none_or(|wanted| *wanted == 0) {
        return;
    }
    // SAFETY: the helper checks `sk`.
    let full = unsafe { bpf_sk_fullsock(sk) };
    if !full.is_null() && is_udp(full) {
        // A packet that is cut short is none.
        let _none = tell(ctx, egress);
    }
}

#[inline(always)]
fn tell(ctx: &SkBuffContext, egress: bool) -> Option<()> {
    const NEXT_UDP: u8 = 17;
    let version = ctx.load::<u8>(0).ok()?;
    let (server, header) = if version >> 4 == 4 {
        let server = if egress { ctx.load(16) } else { ctx.load(12) };
        (mapped(server.ok()?), usize::from(version & 0x0f) * 4)
    } else {
        if ctx.load::<u8>(6).ok()? != NEXT_UDP {
            return None;
        }
        let server = if egress { ctx.load(24) } else { ctx.load(8) };
        (server.ok()?, IPV6_HEADER)
    };
    let port: u16 = (if egress { ctx.load(header + 2) } else { ctx.load(header) }).ok()?;
    if u16::from_be(port) != DOMAIN {
        return None;
    }
    let from = (header + UDP_HEADER) as u32;
    let whole = read!(ctx.skb.skb, len);
    // VERIFIER: as in `cgroup_skb.rs`: bounds in 64 bits, of the register that is passed.
    let len = core::hint::black_box(u64::from(whole).wrapping_sub(u64::from(from)));
    if len < HEADER || len > DATAGRAM_BYTES as u64 {
        return None;
    }
    let Some(mut event) = NAMES.reserve_untyped::<Datagram>(0) else {
        count(Counter::NamesLost, 1);
        return None;
    };
    let datagram = event.as_mut_ptr();
    // SAFETY: the entry is this program's until it is submitted; each field is written, and of the bytes those that count.
    let loaded = unsafe {
        (*datagram).cookie = bpf_get_socket_cookie(ctx.skb.skb.cast());
        (*datagram).cgroup = bpf_skb_cgroup_id(ctx.skb.skb);
        (*datagram).server = Endpoint { addr: server, port: DOMAIN, reserved: 0, scope: 0 };
        (*datagram).egress = u32::from(egress);
        (*datagram).len = len as u32;
        bpf_skb_load_bytes(ctx.skb.skb.cast(), from, (&raw mut (*datagram).bytes).cast(), len as u32)
    };
    if loaded != 0 {
        event.discard(0);
        return None;
    }
    event.submit(0);
    Some(())
}
