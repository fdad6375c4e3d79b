//! `close(2)`, the last of all descriptors: clears the maps and tells the agent.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use ssa_common::{
    event::{Closed, kind},
    limits::Counter,
    socket::Socket,
};

use crate::{
    atomic::{self, Refs},
    ctx::ALLOW,
    maps::{CONNECTIONS, CONTEXTS, EVENTS, LISTENING, USERS, count, count_out, socket_of},
};

/// Never refuses: the kernel ignores what it returns.
#[cgroup_sock(sock_release)]
fn ssa_release(ctx: SockContext) -> i32 {
    if let Some(socket) = socket_of(ctx.sock) {
        leave(socket);
    }
    ALLOW
}

/// Clears what there is of a TLS socket outside of it, and tells the agent.
#[inline(always)]
pub(crate) fn leave(socket: &Socket) {
    if socket.accepted == 0 && socket.by_rule == 0 {
        count_out();
    }
    if socket.id == 0 {
        return;
    }
    // Absent if it never connected.
    let _absent = CONNECTIONS.remove(socket.id);
    leave_context(socket.context);
    // Absent if it did not listen.
    let _absent = LISTENING.remove(socket.id);
    if socket.accepted == 0 {
        count(Counter::Opened, -1);
        leave_user(socket.uid);
    }
    match EVENTS.reserve_untyped::<Closed>(0) {
        Some(mut event) => {
            event.write(Closed { kind: kind::CLOSED, reserved: 0, id: socket.id, context: socket.context });
            event.submit(0);
        }
        None => count(Counter::EventsLost, 1),
    }
}

/// Counts one TLS socket less for a user. The agent forgets users that have none.
#[inline(always)]
pub(crate) fn leave_user(uid: u32) {
    let Some(open) = USERS.get_ptr_mut(uid) else { return };
    // SAFETY: a live value of the map. Not below zero: the agent may just have forgotten the user.
    if unsafe { open.read_volatile() } != 0 {
        atomic::add(open, u64::MAX);
    }
}

/// Counts one socket less in a context, which goes with the last.
#[inline(always)]
pub(crate) fn leave_context(id: u64) {
    let Some(context) = CONTEXTS.get_ptr_mut(id) else { return };
    // SAFETY: a live value of the map.
    if Refs::new(unsafe { &raw mut (*context).refs }).leave() {
        let _absent = CONTEXTS.remove(id);
    }
}
