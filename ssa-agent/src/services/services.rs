//! Attaching and detaching cgroups: applications in them, and below them, have TLS sockets.
//!
//! This decides who is served. The hooks learn of it from [`crate::enforce::Rules`], which writes for each cgroup its
//! service and its rules in one step.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use ssa_common::cgroup::{CLOSED, Cgroup};
use tracing::{info, warn};

use super::{
    attached::{Attached, AttachedBy, Service},
    uncaptured::{self, Uncaptured},
};
use crate::{
    drain::Drain,
    kernel::{Pins, SocketMaps},
    sync::lock,
    sys::{cgroup, on_behalf},
};

/// Attached cgroups, and the names and commands that decide about attaching.
pub(crate) struct Services {
    attached: Arc<Attached>,
    maps: Arc<SocketMaps>,
    drain: Drain,
    /// Name of the agent, which tells its pins from those of others.
    agent: String,
    /// Mount point of the bpffs in which agents have their pins.
    bpffs: PathBuf,
    /// Paths of cgroups that were attached by name, and not detached.
    names: Mutex<HashSet<PathBuf>>,
    /// Paths of cgroups that were left closed: one that is made again is closed, too.
    closed: Mutex<HashSet<PathBuf>>,
    /// Inodes of cgroups that could not be attached, which was logged.
    refused: Mutex<HashSet<u64>>,
    /// Inodes of cgroups that were detached by command: no selector attaches them again.
    detached: Mutex<HashSet<u64>>,
}

/// A service as `ssa-agent list` and the control socket show it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ServiceInfo {
    /// Path of the cgroup in the file system.
    pub(crate) cgroup: PathBuf,
    /// Number of open TLS sockets that were made in it; those that came out of a listener are not counted.
    pub(crate) sockets: u64,
    /// Whether the cgroup is gone; its sockets may live on.
    pub(crate) removed: bool,
    /// Mark of a service that was detached and left closed.
    pub(crate) closed: bool,
    /// Way in which it came to be attached.
    pub(crate) by: AttachedBy,
}

/// What was said by command about cgroups, some of which may not be there.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Commands {
    /// Paths of those that were attached by name.
    pub(crate) names: Vec<PathBuf>,
    /// Paths of those that were left closed.
    pub(crate) closed: Vec<PathBuf>,
    /// Inodes of those that were detached, and that no selector attaches again.
    pub(crate) detached: Vec<u64>,
}

impl Services {
    /// Makes the table of an agent, with nothing attached. `kept`: what was said by command to an agent before this one.
    pub(crate) fn new(agent: String, bpffs: PathBuf, maps: Arc<SocketMaps>, kept: Commands, drain: Drain) -> Self {
        Self {
            attached: Arc::default(),
            maps,
            drain,
            agent,
            bpffs,
            names: Mutex::new(kept.names.into_iter().collect()),
            closed: Mutex::new(kept.closed.into_iter().collect()),
            refused: Mutex::default(),
            detached: Mutex::new(kept.detached.into_iter().collect()),
        }
    }

    /// Attaches cgroups by name, and those that an agent of the same name has `left` attached, as the hooks have it. A
    /// service of those that a selector is for is attached by it (`selects`).
    pub(crate) fn begin(
        &self,
        cgroups: &[PathBuf],
        left: impl Iterator<Item = (u64, Cgroup)>,
        selects: impl Fn(&Path) -> bool,
    ) -> Result<()> {
        for path in cgroups {
            self.attach(path)?;
        }
        for (id, decision) in left.filter(|(id, decision)| decision.service == *id) {
            if self.attached.is_open(id) {
                continue;
            }
            let is_closed = decision.flags & CLOSED != 0;
            let (path, by) = match on_behalf::cgroup_path(id) {
                // What no selector is for any more, such as a pod, is let go.
                Ok(path) if selects(&path) || lock(&self.detached).contains(&id) => (path, AttachedBy::Selector),
                Ok(path) if crate::policy::is_pod(&path) => (path, AttachedBy::Selector),
                Ok(path) => {
                    let paths = if is_closed { &self.closed } else { &self.names };
                    lock(paths).insert(path.clone());
                    (path, AttachedBy::Name)
                }
                Err(_gone) if self.maps.sockets_of(id) == 0 => continue,
                Err(_gone) => (PathBuf::from(format!("removed, {id}")), AttachedBy::Selector),
            };
            info!(cgroup = %path.display(), "serving a cgroup that was left attached");
            self.insert(id, &path, by, HashSet::new(), is_closed);
        }
        Ok(())
    }

    /// Attached cgroups, for those who only look.
    pub(crate) fn attached(&self) -> &Arc<Attached> {
        &self.attached
    }

    /// Attaches a cgroup by name; one that was left closed is opened. Errors: it is attached already, by this agent or
    /// another, or is the agent's own.
    pub(crate) fn attach(&self, path: &Path) -> Result<()> {
        let id = fs::metadata(path).with_context(|| format!("cgroup {}", path.display()))?.ino();
        ensure!(!self.attached.is_open(id), "{} is attached already", path.display());
        self.check(id, path)?;
        for (below, other) in cgroup::all_below(path, |_path| ()).into_iter().skip(1) {
            self.check_others(below, &other)?;
        }
        // Before it is served: what is made in between is served, too.
        self.insert(id, path, AttachedBy::Name, uncaptured::inodes(path), false);
        lock(&self.names).insert(path.to_owned());
        lock(&self.closed).remove(path);
        lock(&self.detached).remove(&id);
        info!(cgroup = %path.display(), "attached");
        Ok(())
    }

    /// Attaches a cgroup that a selector or a name is for, if it is not served with one above it; true if it was
    /// attached. `began` says that it may have had applications before. A failure is logged, once.
    pub(crate) fn select(&self, id: u64, path: &Path, began: bool, selects: impl FnOnce() -> bool) -> bool {
        let closed = lock(&self.closed).contains(path);
        let named = closed || lock(&self.names).contains(path);
        if self.attached.find(path) == Some(id)
            || (!named && (lock(&self.detached).contains(&id) || self.is_below(path) || !selects()))
        {
            return false;
        }
        // Tried again each time: what is in the way may go.
        if let Err(error) = self.check(id, path) {
            if lock(&self.refused).insert(id) {
                warn!(error = format!("{error:#}"), cgroup = %path.display(), "a service can't be attached");
            }
            return false;
        }
        let by = if named { AttachedBy::Name } else { AttachedBy::Selector };
        let before = if began { uncaptured::inodes(path) } else { HashSet::new() };
        if !before.is_empty() {
            warn!(cgroup = %path.display(), sockets = before.len(), "{LATE}");
        }
        self.insert(id, path, by, before, closed);
        info!(cgroup = %path.display(), closed, "attached");
        true
    }

    /// Detaches a cgroup: resets its connections, and refuses its TLS sockets from now on. `leave_closed`: what its
    /// rules make TLS is refused, too; else it speaks plaintext. By `command`, no selector attaches this very cgroup
    /// again. Errors: it is not attached.
    pub(crate) fn detach(&self, path: &Path, leave_closed: bool, command: bool) -> Result<()> {
        let id = self.attached.detach(path, leave_closed)?;
        lock(&self.names).remove(path);
        if leave_closed {
            lock(&self.closed).insert(path.to_owned());
        } else {
            lock(&self.closed).remove(path);
        }
        if command {
            lock(&self.detached).insert(id);
        }
        if leave_closed {
            warn!(cgroup = %path.display(), "detached, and left closed: what its rules make TLS is refused");
        } else {
            info!(cgroup = %path.display(), "detached");
        }
        Ok(())
    }

    /// Whether a cgroup below this one, which may not be there, is attached by name or closed.
    pub(crate) fn is_named_below(&self, path: &Path) -> bool {
        let below =
            |names: &Mutex<HashSet<PathBuf>>| lock(names).iter().any(|name| name != path && name.starts_with(path));
        below(&self.names) || below(&self.closed)
    }

    /// Reason why a cgroup is not attached, where it is one of its own: it was detached, or refused.
    pub(crate) fn why_not(&self, path: &Path) -> Option<String> {
        path.ancestors().find_map(|path| {
            let id = fs::metadata(path).ok()?.ino();
            if lock(&self.detached).contains(&id) {
                return Some(format!("{} was detached by command", path.display()));
            }
            self.check(id, path).err().map(|error| format!("{error:#}"))
        })
    }

    /// Paths of the cgroups that selectors have attached and that are not closed.
    pub(crate) fn by_selector(&self) -> Vec<PathBuf> {
        let all = self.attached.all().into_values();
        let staying = all.filter(|service| service.by == AttachedBy::Selector && !service.closed);
        staying.map(|service| service.path).collect()
    }

    /// Lists the services, as `ssa-agent list` shows them.
    pub(crate) fn infos(&self) -> Vec<ServiceInfo> {
        let info = |(id, service): (u64, Service)| ServiceInfo {
            sockets: self.maps.sockets_of(id),
            removed: !service.is_there(id),
            closed: service.closed,
            cgroup: service.path,
            by: service.by,
        };
        self.attached.all().into_iter().map(info).collect()
    }

    /// Finds the TCP sockets of all services' applications that can't speak TLS. Blocks: reads much of /proc.
    pub(crate) fn uncaptured(&self) -> Vec<Uncaptured> {
        let services = self.attached.all().into_values();
        services.flat_map(|service| uncaptured::find(&service.path, &service.before)).collect()
    }

    /// Lets go of attached cgroups that are gone with all of their TLS sockets, and returns their paths.
    pub(crate) fn let_go(&self) -> Vec<PathBuf> {
        let all = self.attached.all().into_iter();
        let gone = all.filter(|(id, service)| !service.is_there(*id) && self.maps.sockets_of(*id) == 0);
        gone.filter_map(|(id, _service)| {
            let service = self.attached.remove(id)?;
            info!(cgroup = %service.path.display(), "an attached cgroup was removed");
            Some(service.path)
        })
        .collect()
    }

    /// What was said by command, for a successor.
    pub(crate) fn commands(&self) -> Commands {
        Commands {
            names: lock(&self.names).iter().cloned().collect(),
            closed: lock(&self.closed).iter().cloned().collect(),
            detached: lock(&self.detached).iter().copied().collect(),
        }
    }

    fn is_below(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.attached.service_of(parent).is_some())
    }

    fn check(&self, id: u64, path: &Path) -> Result<()> {
        ensure!(
            // Without descriptors it can't be told; Rules leaves the agent's own cgroup alone in any case.
            !cgroup::is_own(path).unwrap_or(false),
            "the agent itself is in {}: its own connections would come back to it",
            path.display()
        );
        self.check_others(id, path)
    }

    /// Refuses a cgroup that another agent serves: each would make its sockets its own.
    fn check_others(&self, id: u64, path: &Path) -> Result<()> {
        for pins in Pins::all(&self.bpffs) {
            let serves = || pins.cgroup(id).is_some_and(|decision| decision.service != 0);
            if pins.name != self.agent && pins.is_own_version() && pins.guards() != 0 && serves() {
                bail!(
                    "{} is served by another agent, {}, or its guards are left there: `ssa-agent cleanup` says more",
                    path.display(),
                    pins.name
                );
            }
            if pins.name != self.agent && pins.attached_one_by_one().contains(&id) {
                bail!(
                    "an agent of version {} is attached to {}, or has left guards there: `ssa-agent cleanup` says more",
                    pins.abi,
                    path.display()
                );
            }
        }
        Ok(())
    }

    fn insert(&self, id: u64, path: &Path, by: AttachedBy, before: HashSet<u32>, closed: bool) {
        let stop = self.drain.child_token();
        if closed {
            stop.cancel();
        }
        let since = SystemTime::now();
        self.attached.insert(id, Service { path: path.to_owned(), by, stop, before, since, closed });
    }
}

/// Log text for a service that had begun before it was attached.
const LATE: &str =
    "applications have begun before they were attached: sockets that they have are not served, new ones are";
