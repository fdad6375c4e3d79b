//! Options that an application sets on its socket after connect, for the peer leg.

use std::task::{Context, Poll, ready};

use ssa_common::peer_option::SLOTS;
use tokio::{net::TcpStream, sync::watch};

use super::socket::set;

/// Options of an application's socket whose connection is relayed, as far as they were set since connect.
#[derive(Clone, Copy)]
pub(crate) struct SocketOptions {
    /// Whether the application has closed its socket.
    pub(crate) closed: bool,
    /// Values of its options, by slot of [`ssa_common::peer_option::PEER_OPTIONS`].
    pub(crate) options: [i32; SLOTS],
}

impl SocketOptions {
    /// Makes the options of an open socket with these values.
    pub(crate) fn new(options: [i32; SLOTS]) -> Self {
        Self { closed: false, options }
    }

    /// Notes a value that was set, by slot of [`ssa_common::peer_option::PEER_OPTIONS`].
    pub(crate) fn set(&mut self, slot: u32, value: i32) {
        if let Some(room) = self.options.get_mut(slot as usize) {
            *room = value;
        }
    }
}

/// Makes the function that a relay polls while it runs: it passes options on to the peer leg, and is ready when the
/// application has closed its socket.
pub(crate) fn option_updates(
    mut updates: watch::Receiver<SocketOptions>,
    mut options: [i32; SLOTS],
) -> impl FnMut(&mut Context<'_>, &TcpStream) -> Poll<()> {
    updates.mark_changed();
    let mut next = Some(Box::pin(changed(updates)));
    move |cx, peer| {
        loop {
            // None: the agent no longer follows this socket, and nobody knows.
            let Some(waiting) = &mut next else { return Poll::Pending };
            let Some(mut updates) = ready!(waiting.as_mut().poll(cx)) else {
                next = None;
                return Poll::Pending;
            };
            let now = *updates.borrow_and_update();
            if let Ok(to) = peer.peer_addr() {
                let changes = options.iter().zip(now.options).enumerate().filter(|(_slot, (old, new))| **old != *new);
                changes.for_each(|(slot, (_old, value))| set(peer, to, slot, value));
            }
            options = now.options;
            if now.closed {
                return Poll::Ready(());
            }
            next = Some(Box::pin(changed(updates)));
        }
    }
}

async fn changed(mut updates: watch::Receiver<SocketOptions>) -> Option<watch::Receiver<SocketOptions>> {
    updates.changed().await.ok()?;
    Some(updates)
}
