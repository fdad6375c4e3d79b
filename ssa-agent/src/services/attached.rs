//! The attached cgroups: where each is, and whether it is being detached.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::sync::lock;

/// How a cgroup came to be attached.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AttachedBy {
    /// By name, on the command line or by `ssa-agent attach`: if it is removed and made again, it is attached again.
    Name,
    /// By a selector: a `[[service]]` of the configuration, or the `service` of a `[[rule]]`.
    Selector,
}

/// An attached cgroup.
#[derive(Clone)]
pub(super) struct Service {
    /// Its path in the file system when it was attached.
    pub(super) path: PathBuf,
    pub(super) by: AttachedBy,
    /// Cancelled when it is detached: its held connects are refused, its connections reset.
    pub(super) stop: CancellationToken,
    /// TCP sockets that there were when it was attached, by inode.
    pub(super) before: HashSet<u32>,
}

impl Service {
    /// Whether its path is still this very cgroup's.
    pub(super) fn is_there(&self, id: u64) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == id)
    }
}

/// The attached cgroups, by inode. [`super::services::Services`] alone changes them.
#[derive(Default)]
pub(crate) struct Attached(Mutex<BTreeMap<u64, Service>>);

impl Attached {
    /// The path of each, by inode.
    pub(crate) fn paths(&self) -> BTreeMap<u64, PathBuf> {
        self.lock().iter().map(|(id, service)| (*id, service.path.clone())).collect()
    }

    /// The path of one, for people; empty if it is not attached any more.
    pub(crate) fn name(&self, id: u64) -> String {
        self.lock().get(&id).map_or_else(String::new, |service| service.path.display().to_string())
    }

    /// A token that is cancelled when the cgroup is detached, and when the agent stops. Cancelled already for one that is not
    /// attached: it just was.
    pub(crate) fn stop(&self, id: u64) -> CancellationToken {
        self.lock().get(&id).map_or_else(cancelled, |service| service.stop.clone())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The inode of one, by its path.
    pub(super) fn find(&self, path: &Path) -> Option<u64> {
        self.lock().iter().find(|(_id, service)| service.path == path).map(|(id, _service)| *id)
    }

    pub(super) fn insert(&self, id: u64, service: Service) {
        self.lock().insert(id, service);
    }

    pub(super) fn remove(&self, id: u64) -> Option<Service> {
        self.lock().remove(&id)
    }

    /// All of them as they are now.
    pub(super) fn all(&self) -> BTreeMap<u64, Service> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Service>> {
        lock(&self.0)
    }
}

fn cancelled() -> CancellationToken {
    let token = CancellationToken::new();
    token.cancel();
    token
}
