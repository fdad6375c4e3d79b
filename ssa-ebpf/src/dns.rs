//! Messages to and from name servers (RFC 1035), as far as sockets of services send and receive them by UDP or
//! TCP: a rule may go by the name that an application has resolved. The agent puts together, reads and matches them.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_cgroup_id, bpf_skb_load_bytes, bpf_tcp_sock},
    programs::SkBuffContext,
};
use ssa_common::{
    event::Datagram,
    limits::{Counter, DATAGRAM_BYTES},
    socket::Endpoint,
};

use crate::{
    address::{mapped, read},
    cgroups,
    ctx::{is_tcp, is_udp},
    maps::{DNS_MESSAGES, DNS_WANTED, count},
};

/// Port of name servers, host byte order.
const DOMAIN: u16 = 53;
/// Length of the header of UDP, in bytes.
const UDP_HEADER: usize = 8;
/// Length of the header of IPv6, in bytes.
const IPV6_HEADER: usize = 40;

/// Reports a packet of a UDP or TCP socket of a service if it is to or from a name server and a rule wants names.
#[inline(always)]
pub(crate) fn observe(ctx: &SkBuffContext, sk: *mut bpf_sock, egress: bool) {
    if DNS_WANTED.get(0).is_none_or(|wanted| *wanted == 0) {
        return;
    }
    // SAFETY: the helper checks `sk`.
    let full = unsafe { bpf_sk_fullsock(sk) };
    if full.is_null() {
        return;
    }
    // A packet that is cut short is none.
    let _none = if is_udp(full) {
        report(ctx, egress, None)
    } else if is_tcp(full) {
        // SAFETY: the helper checks `full`.
        let tcp = unsafe { bpf_tcp_sock(full) };
        if tcp.is_null() { None } else { report(ctx, egress, Some(read!(tcp, rcv_nxt))) }
    } else {
        None
    };
}

/// Sends the agent a [`Datagram`]. `next` is the sequence number that a TCP socket waits for; none for UDP. Full:
/// counted, and the name is not learned.
#[inline(always)]
fn report(ctx: &SkBuffContext, egress: bool, next: Option<u32>) -> Option<()> {
    const NEXT_TCP: u8 = 6;
    const NEXT_UDP: u8 = 17;
    let version = ctx.load::<u8>(0).ok()?;
    let (server, header) = if version >> 4 == 4 {
        let server = if egress { ctx.load(16) } else { ctx.load(12) };
        (mapped(server.ok()?), usize::from(version & 0x0f) * 4)
    } else {
        if ctx.load::<u8>(6).ok()? != (if next.is_some() { NEXT_TCP } else { NEXT_UDP }) {
            return None;
        }
        let server = if egress { ctx.load(24) } else { ctx.load(8) };
        (server.ok()?, IPV6_HEADER)
    };
    let port: u16 = (if egress { ctx.load(header + 2) } else { ctx.load(header) }).ok()?;
    if u16::from_be(port) != DOMAIN || cgroups::of_packet(ctx.skb.skb).service == 0 {
        return None;
    }
    let (length, seq) = if next.is_some() {
        let words = ctx.load::<u8>(header + 12).ok()? >> 4;
        (usize::from(words) * 4, u32::from_be(ctx.load(header + 4).ok()?))
    } else {
        (UDP_HEADER, 0)
    };
    let from = (header + length) as u32;
    let whole = read!(ctx.skb.skb, len);
    let len = whole.wrapping_sub(from);
    if len == 0 || len > DATAGRAM_BYTES as u32 {
        return None;
    }
    // VERIFIER: 6.1 compares one copy of the length, and passes another, of which it knows nothing.
    let len = (core::hint::black_box(len - 1) & (DATAGRAM_BYTES as u32 - 1)) + 1;
    let Some(mut event) = DNS_MESSAGES.reserve_untyped::<Datagram>(0) else {
        count(Counter::NamesLost, 1);
        return None;
    };
    let datagram = event.as_mut_ptr();
    // SAFETY: the entry is this program's until it is submitted; each field is written, and of the bytes those that
    // count.
    let loaded = unsafe {
        (*datagram).cookie = bpf_get_socket_cookie(ctx.skb.skb.cast());
        (*datagram).cgroup = bpf_skb_cgroup_id(ctx.skb.skb);
        (*datagram).server = Endpoint { addr: server, port: DOMAIN, reserved: 0, scope: 0 };
        (*datagram).egress = u32::from(egress);
        (*datagram).len = len;
        (*datagram).tcp = u32::from(next.is_some());
        (*datagram).seq = seq;
        (*datagram).next = if egress { 0 } else { next.unwrap_or_default() };
        (*datagram).reserved = 0;
        bpf_skb_load_bytes(ctx.skb.skb.cast(), from, (&raw mut (*datagram).bytes).cast(), len)
    };
    if loaded != 0 {
        event.discard(0);
        return None;
    }
    event.submit(0);
    Some(())
}
