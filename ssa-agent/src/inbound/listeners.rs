//! Listeners that are served.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use super::listener::Listener;
use crate::{
    connection::Error,
    netns::{ClientListener, Namespace},
    sync::lock,
    sys::on_behalf::SocketOwner,
};

/// Listeners by id, and the agent's own listeners that take their clients in.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    listeners: HashMap<u64, Arc<Listener>>,
    /// Listeners of the agent, by namespace (cookie) and owner.
    client_listeners: HashMap<(u64, SocketOwner), Weak<ClientListener>>,
}

impl Listeners {
    /// Finds the listener that a connection is for. Of several at one address the one with the lowest id: their
    /// sessions are one another's then.
    pub(super) fn find(&self, netns: u64, local: SocketAddr) -> Option<Arc<Listener>> {
        let inner = self.lock();
        let fitting = inner.listeners.values().filter_map(|one| Some((one.addr.fits(netns, local)?, one)));
        fitting.max_by_key(|(fit, listener)| (*fit, Reverse(listener.id))).map(|(_fit, listener)| Arc::clone(listener))
    }

    /// Enters a listener.
    pub(super) fn insert(&self, listener: Arc<Listener>) {
        self.lock().listeners.insert(listener.id, listener);
    }

    /// Takes a listener out; none if it was not there.
    pub(super) fn remove(&self, id: u64) -> Option<Arc<Listener>> {
        self.lock().listeners.remove(&id)
    }

    /// Finds a listener that is served, by its id.
    pub(super) fn get(&self, id: u64) -> Option<Arc<Listener>> {
        self.lock().listeners.get(&id).map(Arc::clone)
    }

    /// Whether a listener is served.
    pub(super) fn serves(&self, id: u64) -> bool {
        self.lock().listeners.contains_key(&id)
    }

    /// Ids of the listeners.
    pub(super) fn ids(&self) -> HashSet<u64> {
        self.lock().listeners.keys().copied().collect()
    }

    /// Lists the listeners.
    pub(super) fn all(&self) -> Vec<Arc<Listener>> {
        self.lock().listeners.values().map(Arc::clone).collect()
    }

    /// Lists the listeners of a namespace, by its cookie.
    pub(super) fn of_namespace(&self, netns: u64) -> Vec<Arc<Listener>> {
        self.all().into_iter().filter(|listener| listener.addr.netns == netns).collect()
    }

    /// Returns the agent's listeners that take in the clients of an owner's listeners, made for the first of these.
    /// Errors: [`Error::ClientListener`].
    pub(super) async fn client_listener(
        &self,
        namespace: &Arc<Namespace>,
        owner: SocketOwner,
    ) -> Result<Arc<ClientListener>, Error> {
        let key = (namespace.cookie, owner);
        let there = |inner: &Inner| inner.client_listeners.get(&key).and_then(Weak::upgrade);
        if let Some(listener) = there(&self.lock()) {
            return Ok(listener);
        }
        let made = Arc::new(namespace.client_listener(owner).await.map_err(Error::ClientListener)?);
        let mut inner = self.lock();
        // Another listener may have been quicker.
        if let Some(listener) = there(&inner) {
            return Ok(listener);
        }
        inner.client_listeners.retain(|_key, listener| listener.strong_count() > 0);
        inner.client_listeners.insert(key, Arc::downgrade(&made));
        Ok(made)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}
