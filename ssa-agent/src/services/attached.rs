//! Attached cgroups: where each is, and whether it is being detached.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::sync::lock;

/// Way in which a cgroup came to be attached.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AttachedBy {
    /// Attached by name, on the command line or by `ssa-agent attach`: if it is removed and made again, it is attached
    /// again.
    Name,
    /// Attached by a selector: a `[[service]]` of the configuration, or the `service` of a `[[rule]]`.
    Selector,
}

/// An attached cgroup.
#[derive(Clone)]
pub(super) struct Service {
    /// Path in the file system when it was attached.
    pub(super) path: PathBuf,
    /// Way in which it came to be attached.
    pub(super) by: AttachedBy,
    /// Token that is cancelled when it is detached: its held connects are refused, its connections reset.
    pub(super) stop: CancellationToken,
    /// Inodes of the TCP sockets that existed when it was attached.
    pub(super) before: HashSet<u32>,
}

impl Service {
    /// Whether its path is still this very cgroup's.
    pub(super) fn is_there(&self, id: u64) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == id)
    }
}

/// Attached cgroups, by inode. [`super::services::Services`] alone changes them.
#[derive(Default)]
pub(crate) struct Attached(Mutex<BTreeMap<u64, Service>>);

impl Attached {
    /// Paths of the attached cgroups, by inode.
    pub(crate) fn paths(&self) -> BTreeMap<u64, PathBuf> {
        self.lock().iter().map(|(id, service)| (*id, service.path.clone())).collect()
    }

    /// Path of an attached cgroup as text; empty if it is not attached any more.
    pub(crate) fn name(&self, id: u64) -> String {
        self.lock().get(&id).map_or_else(String::new, |service| service.path.display().to_string())
    }

    /// Token that is cancelled when the cgroup is detached, and when the agent stops. Cancelled already for a cgroup
    /// that is not attached: it just was.
    pub(crate) fn stop(&self, id: u64) -> CancellationToken {
        self.lock().get(&id).map_or_else(cancelled, |service| service.stop.clone())
    }

    /// Number of attached cgroups.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Cancels the token of a cgroup that is to be detached, and returns its inode. Errors: it is not attached, or is
    /// being detached already; of several calls at once, one goes on.
    pub(super) fn begin_detach(&self, path: &Path) -> Result<u64> {
        let services = self.lock();
        let found = services.iter().find(|(_id, service)| service.path == path);
        let (id, service) = found.with_context(|| format!("{} is not attached", path.display()))?;
        ensure!(!service.stop.is_cancelled(), "{} is being detached already", path.display());
        service.stop.cancel();
        Ok(*id)
    }

    /// Inode of an attached cgroup, by its path.
    pub(super) fn find(&self, path: &Path) -> Option<u64> {
        self.lock().iter().find(|(_id, service)| service.path == path).map(|(id, _service)| *id)
    }

    /// Adds a cgroup, by inode.
    pub(super) fn insert(&self, id: u64, service: Service) {
        self.lock().insert(id, service);
    }

    /// Removes a cgroup, by inode; none if it was not attached.
    pub(super) fn remove(&self, id: u64) -> Option<Service> {
        self.lock().remove(&id)
    }

    /// Copies the attached cgroups as they are now.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_calls_that_detach_one_goes_on() {
        let attached = Attached::default();
        let (path, stop) = (PathBuf::from("/sys/fs/cgroup/a"), CancellationToken::new());
        let service = Service { path: path.clone(), by: AttachedBy::Name, stop: stop.clone(), before: HashSet::new() };
        attached.insert(7, service);
        assert!(attached.begin_detach(Path::new("/sys/fs/cgroup/b")).is_err());
        assert!(!stop.is_cancelled());
        assert_eq!(attached.begin_detach(&path).unwrap(), 7);
        assert!(stop.is_cancelled());
        let again = attached.begin_detach(&path).unwrap_err();
        assert_eq!(again.to_string(), "/sys/fs/cgroup/a is being detached already");
    }
}
