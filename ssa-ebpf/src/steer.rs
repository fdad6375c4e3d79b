//! sk_lookup: steers to the agent the connections that it has resumed, and those of clients to applications
//! that listen on TLS sockets. Loaded once for each network namespace, with maps of its own.
#![no_std]
#![no_main]

mod address;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_SK_LOOKUP_F_REPLACE},
    btf_maps::{HashMap, SockMap},
    macros::{btf_map, sk_lookup},
    programs::SkLookupContext,
};
use ssa_common::{
    limits::LEGS_CAPACITY,
    steer::{FourTuple, LegKey, ListenKey, STEER_CAPACITY, Target},
};

use crate::address::{AF_INET, bytes, mapped, read, read_words};

/// Connections that are being resumed: four-tuple of the SYN -> 1. [`STEER_CAPACITY`] entries. Written and deleted by
/// the agent, read by [`ssa_steer`]. Full: the agent refuses the connect.
#[btf_map]
static RESUMED: HashMap<FourTuple, u32, STEER_CAPACITY, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Legs from the agent, or from the one before it, to applications' listeners, which go their own way: the hooks' map
/// of that name, by its pin.
#[btf_map]
static LEGS: HashMap<LegKey, u64, LEGS_CAPACITY, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Cookie of the network namespace that this instance is attached to; set by the agent before it loads the program.
#[unsafe(no_mangle)]
static NETNS: u64 = 0;

/// Addresses at which TLS sockets listen -> listener for their clients, and of others that must not be mistaken for
/// them ([`Target::PASS`]). [`STEER_CAPACITY`] entries. Written by the agent, read by [`ssa_steer`]. Full: the
/// listener is not served, and ingress keeps clients out.
#[btf_map]
static LISTEN: HashMap<ListenKey, Target, STEER_CAPACITY, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Listeners of the agent: index ([`Target`]) -> socket. [`Target::COUNT`] entries. Written by the agent; the kernel
/// empties an entry when the socket is closed. An empty entry drops the connection.
#[btf_map]
static TARGETS: SockMap<{ Target::COUNT }> = SockMap::new();

/// Chooses the socket of a new connection. Passes what the agent did not announce to the kernel's own look-up; drops
/// what it did if its listener is gone.
#[sk_lookup]
fn ssa_steer(ctx: SkLookupContext) -> u32 {
    const SK_DROP: u32 = 0;
    const SK_PASS: u32 = 1;
    let lookup = ctx.lookup;
    let ipv4 = read!(lookup, family) == AF_INET;
    // VERIFIER: read everything first. Reads in the arms of an `if` are merged into one with a
    // variable offset: "dereference of modified ctx ptr R6 off=40 disallowed" (6.18, rustc 1.95).
    let (remote4, local4) = (mapped(read!(lookup, remote_ip4)), mapped(read!(lookup, local_ip4)));
    let (remote6, local6) = (bytes(read_words!(lookup, remote_ip6)), bytes(read_words!(lookup, local_ip6)));
    let key = FourTuple {
        source: if ipv4 { remote4 } else { remote6 },
        target: if ipv4 { local4 } else { local6 },
        source_port: u16::from_be(read!(lookup, remote_port)),
        target_port: read!(lookup, local_port) as u16,
    };
    // SAFETY: only the entries' presence matters.
    let resumed = unsafe { RESUMED.get(key) }.is_some();
    let passing = || {
        // SAFETY: the loader has set it; only the entry's presence matters.
        unsafe {
            let netns = (&raw const NETNS).read_volatile();
            LEGS.get(LegKey { netns, tuple: key, reserved: 0 })
        }
        .is_some()
    };
    let to = if resumed {
        if ipv4 { Target::LEG_V4 } else { Target::LEG_V6 }
    } else if let Some(first) = listener_at(key.target, key.target_port, ipv4)
        && !passing()
    {
        if ipv4 { first } else { first.second() }
    } else {
        return SK_PASS;
    };
    // An agent that ends may steer here, too; who came later is right.
    match TARGETS.redirect_sk_lookup(&ctx, to.raw(), u64::from(BPF_SK_LOOKUP_F_REPLACE)) {
        Ok(()) => SK_PASS,
        Err(_errno) => SK_DROP,
    }
}

/// Finds the listener for clients of an address: of this very one, or else of every address.
#[inline(always)]
fn listener_at(addr: [u8; 16], port: u16, ipv4: bool) -> Option<Target> {
    let every = if ipv4 { mapped(0) } else { [0; 16] };
    let at = |addr| {
        // SAFETY: the value is read within this hook.
        unsafe { LISTEN.get(ListenKey { addr, port, reserved: 0 }) }.copied()
    };
    at(addr).or_else(|| at(every)).filter(|target| *target != Target::PASS)
}

/// Panic handler that can't load: see inside.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses an endless loop: a panic that could be reached would not load.
    loop {}
}

/// Licence as the kernel reads it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
