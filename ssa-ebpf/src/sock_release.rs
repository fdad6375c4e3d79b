//! `close(2)`, the last of all descriptors: clears the maps and tells the agent.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};

use crate::{
    lifecycle::unregister,
    maps::{socket_of, unbar},
    refusal::ALLOW,
};

/// Never refuses: the kernel ignores what it returns.
#[cgroup_sock(sock_release)]
fn ssa_release(ctx: SockContext) -> i32 {
    if let Some(socket) = socket_of(ctx.sock) {
        unregister(socket);
    }
    unbar(ctx.sock);
    ALLOW
}
