//! Attached cgroups: where each is, and whether it is closed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
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
    /// Time at which it was attached, by this agent.
    pub(super) since: SystemTime,
    /// Mark of a service that was detached and left closed: what its rules make TLS is refused.
    pub(super) closed: bool,
}

impl Service {
    /// Whether its path is still this very cgroup's.
    pub(super) fn is_there(&self, id: u64) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == id)
    }
}

/// Attached cgroups, by inode. [`super::services::Services`] alone changes them.
#[derive(Default)]
pub(crate) struct Attached(Mutex<Table>);

#[derive(Default)]
struct Table {
    by_id: BTreeMap<u64, Service>,
    by_path: HashMap<PathBuf, u64>,
}

impl Attached {
    /// Paths of the attached cgroups, by inode.
    pub(crate) fn paths(&self) -> BTreeMap<u64, PathBuf> {
        self.lock().by_id.iter().map(|(id, service)| (*id, service.path.clone())).collect()
    }

    /// Path of an attached cgroup; none if it is not attached any more.
    pub(crate) fn path(&self, id: u64) -> Option<PathBuf> {
        self.lock().by_id.get(&id).map(|service| service.path.clone())
    }

    /// Path of an attached cgroup as text; empty if it is not attached any more.
    pub(crate) fn name(&self, id: u64) -> String {
        self.path(id).map_or_else(String::new, |path| path.display().to_string())
    }

    /// Service of a cgroup: the nearest that is attached, of itself and those above it. Its inode, and whether it is
    /// closed.
    pub(crate) fn service_of(&self, cgroup: &Path) -> Option<(u64, bool)> {
        let table = self.lock();
        let id = *cgroup.ancestors().find_map(|path| table.by_path.get(path))?;
        Some((id, table.by_id.get(&id).is_some_and(|service| service.closed)))
    }

    /// Time at which a cgroup was attached, and how; none if it is not attached.
    pub(crate) fn since(&self, id: u64) -> Option<(SystemTime, AttachedBy)> {
        self.lock().by_id.get(&id).map(|service| (service.since, service.by))
    }

    /// Token that is cancelled when the cgroup is detached, and when the agent stops. Cancelled already for a cgroup
    /// that is not attached: it just was.
    pub(crate) fn stop(&self, id: u64) -> CancellationToken {
        self.lock().by_id.get(&id).map_or_else(cancelled, |service| service.stop.clone())
    }

    /// Number of attached cgroups.
    pub(crate) fn count(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Detaches a cgroup, or leaves it closed; its token is cancelled. Returns its inode. Errors: it is not attached.
    pub(super) fn detach(&self, path: &Path, leave_closed: bool) -> Result<u64> {
        let mut table = self.lock();
        let id = *table.by_path.get(path).with_context(|| format!("{} is not attached", path.display()))?;
        if let Some(service) = table.by_id.get_mut(&id) {
            service.stop.cancel();
            service.closed = leave_closed;
        }
        if !leave_closed {
            table.remove(id);
        }
        Ok(id)
    }

    /// Inode of an attached cgroup, by its path.
    pub(super) fn find(&self, path: &Path) -> Option<u64> {
        self.lock().by_path.get(path).copied()
    }

    /// Whether a cgroup is attached and not closed.
    pub(super) fn is_open(&self, id: u64) -> bool {
        self.lock().by_id.get(&id).is_some_and(|service| !service.closed)
    }

    /// Adds a cgroup, by inode.
    pub(super) fn insert(&self, id: u64, service: Service) {
        let mut table = self.lock();
        table.by_path.insert(service.path.clone(), id);
        table.by_id.insert(id, service);
    }

    /// Removes a cgroup, by inode; none if it was not attached.
    pub(super) fn remove(&self, id: u64) -> Option<Service> {
        self.lock().remove(id)
    }

    /// Copies the attached cgroups as they are now.
    pub(super) fn all(&self) -> BTreeMap<u64, Service> {
        self.lock().by_id.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.0)
    }
}

impl Table {
    fn remove(&mut self, id: u64) -> Option<Service> {
        let service = self.by_id.remove(&id)?;
        // Another cgroup may have its path by now.
        if self.by_path.get(&service.path) == Some(&id) {
            self.by_path.remove(&service.path);
        }
        Some(service)
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

    fn service(path: &str, stop: &CancellationToken) -> Service {
        let (path, by) = (PathBuf::from(path), AttachedBy::Name);
        Service { path, by, stop: stop.clone(), before: HashSet::new(), since: SystemTime::now(), closed: false }
    }

    #[test]
    fn detached_service_is_gone_or_closed() {
        let (attached, stop) = (Attached::default(), CancellationToken::new());
        let path = Path::new("/sys/fs/cgroup/a");
        attached.insert(7, service("/sys/fs/cgroup/a", &stop));
        assert!(attached.detach(Path::new("/sys/fs/cgroup/b"), false).is_err());
        assert!(!stop.is_cancelled());
        assert_eq!(attached.detach(path, true).unwrap(), 7);
        assert!(stop.is_cancelled() && !attached.is_open(7));
        assert_eq!(attached.service_of(Path::new("/sys/fs/cgroup/a/b/c")), Some((7, true)));
        assert_eq!(attached.detach(path, false).unwrap(), 7, "one that is closed can be opened");
        assert_eq!(attached.service_of(path), None);
    }

    #[test]
    fn cgroup_belongs_to_the_nearest_service() {
        let (attached, stop) = (Attached::default(), CancellationToken::new());
        attached.insert(7, service("/sys/fs/cgroup/a", &stop));
        attached.insert(8, service("/sys/fs/cgroup/a/b", &stop));
        assert_eq!(attached.service_of(Path::new("/sys/fs/cgroup/a/b/c")), Some((8, false)));
        assert_eq!(attached.service_of(Path::new("/sys/fs/cgroup/a/c")), Some((7, false)));
        // It was removed, and made again, before the agent has let the first one go.
        attached.insert(9, service("/sys/fs/cgroup/a/b", &stop));
        attached.remove(8);
        assert_eq!(attached.service_of(Path::new("/sys/fs/cgroup/a/b")), Some((9, false)));
    }
}
