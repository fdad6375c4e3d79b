//! Network namespaces that are served: made at first use, let go when nobody uses them any more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ssa_common::socket::Caller;
use tokio::sync::{OnceCell, mpsc as queue};
use tracing::debug;

use super::{client_listener::Client, error::Error, namespace::Namespace};
use crate::{kernel::ListenerMaps, sync::lock};

/// Network namespaces that are served, by cookie.
pub(crate) struct Namespaces {
    maps: Arc<ListenerMaps>,
    /// Queue that clients of applications' listeners go to.
    clients: queue::Sender<Client>,
    made: Mutex<HashMap<u64, Entry>>,
}

/// A namespace that is made, or about to be.
#[derive(Default)]
struct Entry {
    cell: Arc<OnceCell<Arc<Namespace>>>,
    /// Time since when nobody uses it, as far as was seen.
    idle: Option<Instant>,
}

/// Time for which a namespace that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(10);

impl Namespaces {
    /// Serves no namespace yet. Clients of applications' listeners go to `clients`.
    pub(crate) fn new(maps: Arc<ListenerMaps>, clients: queue::Sender<Client>) -> Self {
        Self { maps, clients, made: Mutex::default() }
    }

    /// Whether a caller's namespace is served, or is about to be.
    pub(crate) fn has(&self, caller: &Caller) -> bool {
        lock(&self.made).contains_key(&caller.netns)
    }

    /// Returns the namespace of a caller's socket, made at first use. Errors: as of [`Error`]; the next call tries
    /// again.
    pub(crate) async fn of(&self, caller: &Caller) -> Result<Arc<Namespace>, Error> {
        let cell = Arc::clone(&lock(&self.made).entry(caller.netns).or_default().cell);
        let namespace =
            cell.get_or_try_init(|| Namespace::enter(Arc::clone(&self.maps), self.clients.clone(), *caller)).await?;
        Ok(Arc::clone(namespace))
    }

    /// Lets go of namespaces that nobody has used for a while: no connection, no listener, no dial. To be called from
    /// time to time.
    pub(crate) fn forget_idle(&self) {
        let now = Instant::now();
        let mut gone = Vec::new();
        lock(&self.made).retain(|cookie, entry| {
            let used = Arc::strong_count(&entry.cell) > 1
                || entry.cell.get().is_some_and(|namespace| Arc::strong_count(namespace) > 1);
            entry.idle = if used { None } else { entry.idle.or(Some(now)) };
            let keep = entry.idle.is_none_or(|since| now.duration_since(since) < IDLE);
            if !keep {
                debug!(cookie, "letting go of a network namespace");
                gone.push(std::mem::take(&mut entry.cell));
            }
            keep
        });
        // Outside of the lock: sockets are closed, and a program detached.
        drop(gone);
    }
}
