//! The hooks, one file per hook, named as the kernel names it. They are attached to the root of the cgroups, and go by
//! the cgroup of whoever calls.
//!
//! Rules for all of them: a socket that is none of a service's leaves after the first check; a TLS socket that meets any
//! trouble is refused, never let through.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomics: see atomic.rs")]
#![expect(clippy::needless_borrows_for_generic_args, reason = "by value they would be copied to the 512-byte stack")]

mod address;
mod alpn;
mod atomic;
mod caller;
mod cgroup_skb;
mod cgroups;
mod ciphers;
mod connect;
mod ctx;
mod dns;
mod getpeername;
mod getsockopt;
mod hostname;
mod lifecycle;
mod maps;
mod option_row;
mod peer_options;
mod policy;
mod refusal;
mod repeat;
mod rules;
mod setsockopt;
mod sock_create;
mod sock_ops;
mod sock_release;
mod text;
mod user_pointer;

/// Panic handler that can't load: see inside.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses an endless loop: a panic that could be reached would not load.
    loop {}
}

/// Licence as the kernel reads it: helpers that are for GPL programs only are used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
