//! Sockets that have come out of listeners, or are about to.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard},
};

use ssa_common::peer_option::{ABSENT, SLOTS};
use tokio::sync::watch;

use crate::{dial::SocketOptions, sync::lock};

/// Accepted sockets by id.
#[derive(Default)]
pub(crate) struct AcceptedSockets(Mutex<HashMap<u64, Accepted>>);

/// A socket that has come out of a listener, or is about to.
struct Accepted {
    /// `TLS_ID` of the listener.
    listener: u64,
    options: watch::Sender<SocketOptions>,
    /// Whether its connection is over.
    ended: bool,
    /// Addresses of its leg: the agent's, and the application's. None before it has one.
    leg: Option<(SocketAddr, SocketAddr)>,
}

impl AcceptedSockets {
    /// Enters a socket that is about to come out of a listener. Returns the options that the application sets on it.
    pub(super) fn enter(&self, id: u64, listener: u64) -> watch::Receiver<SocketOptions> {
        let (options, follow) = watch::channel(SocketOptions::new([ABSENT; SLOTS]));
        self.lock().insert(id, Accepted { listener, options, ended: false, leg: None });
        follow
    }

    /// Notes the addresses of a socket's leg: the agent's, and the application's.
    pub(super) fn has_leg(&self, id: u64, from: SocketAddr, to: SocketAddr) {
        if let Some(accepted) = self.lock().get_mut(&id) {
            accepted.leg = Some((from, to));
        }
    }

    /// Addresses of a socket's leg: the agent's, and the application's. None before it has one.
    pub(super) fn leg(&self, id: u64) -> Option<(SocketAddr, SocketAddr)> {
        self.lock().get(&id)?.leg
    }

    /// Takes a socket out of the table. True if it was there.
    pub(super) fn remove(&self, id: u64) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// Notes that the connection of a socket is over, and returns its listener; none if the socket is closed already.
    pub(super) fn ended(&self, id: u64) -> Option<u64> {
        let mut sockets = self.lock();
        let accepted = sockets.get_mut(&id)?;
        accepted.ended = true;
        Some(accepted.listener)
    }

    /// Ids of a listener's sockets whose connections are over.
    pub(super) fn ended_of(&self, listener: u64) -> Vec<u64> {
        let sockets = self.lock();
        let ended = sockets.iter().filter(|(_id, accepted)| accepted.listener == listener && accepted.ended);
        ended.map(|(id, _accepted)| *id).collect()
    }

    /// Notes an option that the application has set: its slot of [`ssa_common::peer_option::PEER_OPTIONS`], and its
    /// value.
    pub(crate) fn changed(&self, id: u64, slot: u32, value: i32) {
        if let Some(accepted) = self.lock().get(&id) {
            accepted.options.send_modify(|options| options.set(slot, value));
        }
    }

    /// Takes out a socket that was closed for the last time, and ends its relay.
    pub(crate) fn closed(&self, id: u64) {
        let accepted = self.lock().remove(&id);
        if let Some(accepted) = accepted {
            accepted.options.send_modify(|options| options.closed = true);
        }
    }

    /// Takes out sockets whose close was missed: those with a leg of which `is_open` says that they are not.
    pub(crate) fn reconcile(&self, is_open: impl Fn(u64) -> bool) {
        let mut sockets = self.lock();
        let gone = sockets.extract_if(|id, accepted| accepted.leg.is_some() && !is_open(*id));
        gone.for_each(|(_id, accepted)| accepted.options.send_modify(|options| options.closed = true));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Accepted>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_hears_of_options_and_of_the_close_of_its_socket_only() {
        let sockets = AcceptedSockets::default();
        let (one, other) = (sockets.enter(1, 10), sockets.enter(2, 10));
        sockets.changed(1, 4, 1);
        assert_eq!((one.borrow().options[4], other.borrow().options[4]), (1, ABSENT));
        sockets.closed(1);
        assert!(one.borrow().closed && !other.borrow().closed);
        assert!(!sockets.remove(1) && sockets.remove(2));
    }

    #[test]
    fn sockets_with_a_leg_that_nobody_has_any_more_are_closed() {
        let sockets = AcceptedSockets::default();
        let (without, with, open) = (sockets.enter(1, 10), sockets.enter(2, 10), sockets.enter(3, 10));
        let at = "127.0.0.1:1".parse().unwrap();
        sockets.has_leg(2, at, at);
        sockets.has_leg(3, at, at);
        sockets.reconcile(|id| id == 3);
        let closed = |options: &watch::Receiver<SocketOptions>| options.borrow().closed;
        assert!(!closed(&without), "it is just being accepted");
        assert!(closed(&with) && !closed(&open));
        assert_eq!((sockets.leg(2), sockets.leg(3)), (None, Some((at, at))));
    }

    #[test]
    fn what_has_ended_goes_with_its_listener() {
        let sockets = AcceptedSockets::default();
        sockets.enter(1, 10);
        sockets.enter(2, 10);
        sockets.enter(3, 11);
        assert_eq!((sockets.ended(1), sockets.ended(3), sockets.ended(4)), (Some(10), Some(11), None));
        assert_eq!(sockets.ended_of(10), [1]);
    }
}
