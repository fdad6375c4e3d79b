//! Entries about listeners in the maps of a namespace's steering program.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ssa_common::steer::ListenKey;

use super::{listener::Listener, listeners::Listeners};
use crate::{
    kernel,
    netns::{ClientListener, Steered},
    sync::lock,
    sys::sock_diag::ListeningSocket,
};

impl Listeners {
    /// Sends the clients of a listener to the agent. Errors: the map LISTEN is full.
    pub(super) fn steer(&self, listener: &Listener) -> Result<(), kernel::Error> {
        let keys = listener.addr.keys();
        keys.iter().try_for_each(|key| listener.namespace.steer(key, Steered::Agent(&listener.client_listener)))
    }

    /// Leaves to others what they have at one address of a listener's port, and no longer than they are there.
    /// `listed`: the sockets that listen on the port. Errors: the map LISTEN is full.
    pub(super) fn pass_others(&self, listener: &Listener, listed: &[ListeningSocket]) -> Result<(), kernel::Error> {
        let own: HashSet<ListenKey> =
            self.of_namespace(listener.addr.netns).iter().flat_map(|other| other.addr.keys()).collect();
        let there = listed.iter().filter(|one| !one.at.ip().is_unspecified());
        let there = there.map(|one| listener.addr.key(one.at.ip()));
        let now: HashSet<ListenKey> = there.filter(|key| !own.contains(key)).collect();
        let mut passed = lock(&listener.passed);
        for key in now.difference(&passed) {
            listener.namespace.steer(key, Steered::Other)?;
        }
        for key in passed.difference(&now).filter(|key| !own.contains(key)) {
            listener.namespace.steer(key, Steered::Nobody)?;
        }
        *passed = now;
        Ok(())
    }

    /// Removes the entries of a listener that is gone, but for those that others still need.
    pub(super) fn unsteer(&self, gone: &Listener) {
        let others = self.of_namespace(gone.addr.netns);
        let own = |other: &Arc<Listener>| {
            other.addr.keys().into_iter().map(|key| (key, Arc::clone(&other.client_listener))).collect::<Vec<_>>()
        };
        let kept: HashMap<ListenKey, Arc<ClientListener>> = others.iter().flat_map(own).collect();
        for key in steered(gone) {
            let to = kept.get(&key).map_or(Steered::Nobody, |listener| Steered::Agent(listener));
            // Removing can't fail, nor can changing what is there.
            let _done = gone.namespace.steer(&key, to);
        }
    }

    /// Removes all entries, for a successor that takes clients in from here on. Clients that have come before are still
    /// served.
    pub(crate) fn unsteer_all(&self) {
        for listener in self.all() {
            for key in steered(&listener) {
                // Removing can't fail.
                let _done = listener.namespace.steer(&key, Steered::Nobody);
            }
        }
    }
}

/// Keys of the entries that a listener has.
fn steered(listener: &Listener) -> Vec<ListenKey> {
    let passed = lock(&listener.passed).clone();
    listener.addr.keys().into_iter().chain(passed).collect()
}
