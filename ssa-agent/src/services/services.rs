//! Attaching and detaching cgroups: applications in them, and below them, have TLS sockets.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    attached::{Attached, AttachedBy, Service},
    uncaptured::{self, Uncaptured},
};
use crate::{
    drain::Drain,
    kernel::{Hooks, SocketMaps},
    policy::is_pod,
    sync::lock,
    sys::{cgroup, on_behalf},
    telemetry::LogOnce,
};

/// Attached cgroups with their hooks, and the names and commands that decide about attaching.
pub(crate) struct Services {
    attached: Arc<Attached>,
    maps: Arc<SocketMaps>,
    drain: Drain,
    /// Paths of cgroups that were attached by name, and not detached.
    names: Mutex<HashSet<PathBuf>>,
    /// Inodes of cgroups that could not be attached, which was logged.
    refused: Mutex<HashSet<u64>>,
    /// Inodes of cgroups that were detached by command: no selector attaches them again.
    detached: Mutex<HashSet<u64>>,
    /// Hooks, locked while something is attached or detached; none once the agent ends.
    hooks: tokio::sync::Mutex<Option<Hooks>>,
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
    /// Way in which it came to be attached.
    pub(crate) by: AttachedBy,
}

/// Changes that [`Services::reconcile`] has made.
#[derive(Default)]
pub(crate) struct Reconciled {
    /// Whether something was attached.
    pub(crate) attached: bool,
    /// Paths of cgroups that are gone with all of their TLS sockets.
    pub(crate) gone: Vec<PathBuf>,
}

impl Services {
    /// Attaches cgroups, and those that an agent of the same name has left attached. `detached`: inodes of those that
    /// stay detached, by command to an agent before this one.
    pub(crate) fn attach_all(
        mut hooks: Hooks,
        maps: Arc<SocketMaps>,
        cgroups: &[PathBuf],
        detached: Vec<u64>,
        drain: Drain,
    ) -> Result<Self> {
        let services = Self {
            attached: Arc::default(),
            maps,
            drain,
            names: Mutex::new(cgroups.iter().cloned().collect()),
            refused: Mutex::default(),
            detached: Mutex::new(detached.into_iter().collect()),
            hooks: tokio::sync::Mutex::default(),
        };
        for path in cgroups {
            services.add(&mut hooks, path, AttachedBy::Name)?;
        }
        let wanted = services.attached.paths();
        for id in hooks.left_attached().into_iter().filter(|id| !wanted.contains_key(id)) {
            match on_behalf::cgroup_path(id).ok() {
                Some(path) => {
                    // A pod that no selector is for any more is let go.
                    let by = if is_pod(&path) { AttachedBy::Selector } else { AttachedBy::Name };
                    services.add(&mut hooks, &path, by)?;
                    info!(cgroup = %path.display(), "serving a cgroup that was left attached");
                    if by == AttachedBy::Name {
                        lock(&services.names).insert(path);
                    }
                }
                // The kernel detaches everything with the last socket of a cgroup that is gone.
                None if services.maps.sockets_of(id) == 0 => hooks.forget(id)?,
                // Until then its guards stay, and refuse.
                None => {
                    let (path, stop) = (PathBuf::from(format!("removed, {id}")), services.drain.child_token());
                    services
                        .attached
                        .insert(id, Service { path, by: AttachedBy::Selector, stop, before: HashSet::new() });
                }
            }
        }
        Ok(Self { hooks: Some(hooks).into(), ..services })
    }

    /// Attached cgroups, for those who only look.
    pub(crate) fn attached(&self) -> &Arc<Attached> {
        &self.attached
    }

    /// Announces that the agent lives: sockets connect from here on. Errors: the agent ends, or a map can't be written.
    pub(crate) async fn open(&self) -> Result<()> {
        Ok(self.hooks.lock().await.as_mut().context("the agent ends")?.open()?)
    }

    /// Attaches a cgroup by name. Errors: it is attached already, is the agent's own, can't be attached, or the agent
    /// ends.
    pub(crate) async fn attach(&self, path: &Path) -> Result<()> {
        let mut hooks = self.hooks.lock().await;
        let hooks = hooks.as_mut().context("the agent ends")?;
        let id = fs::metadata(path)?.ino();
        ensure!(!self.attached.paths().contains_key(&id), "{} is attached already", path.display());
        self.add(hooks, path, AttachedBy::Name)?;
        lock(&self.names).insert(path.to_owned());
        lock(&self.detached).remove(&id);
        info!(cgroup = %path.display(), "attached");
        Ok(())
    }

    fn add(&self, hooks: &mut Hooks, path: &Path, by: AttachedBy) -> Result<()> {
        ensure!(
            !cgroup::is_own(path)?,
            "the agent itself is in {}: its own connections would come back to it",
            path.display()
        );
        let (id, fresh) = hooks.attach(path)?;
        // After it: what was made in between is counted as older, though it is served.
        let before = if fresh { uncaptured::inodes(path) } else { HashSet::new() };
        self.attached.insert(id, Service { path: path.to_owned(), by, stop: self.drain.child_token(), before });
        Ok(())
    }

    /// Detaches a cgroup by command: no selector attaches this very cgroup again.
    pub(crate) async fn detach_for_good(&self, path: &Path) -> Result<()> {
        lock(&self.detached).extend(self.attached.find(path));
        self.detach(path).await
    }

    /// Detaches a cgroup: resets its connections, and waits, without a limit, until its applications have closed their
    /// TLS sockets, lest one become a plain socket.
    pub(crate) async fn detach(&self, path: &Path) -> Result<()> {
        let id = self.attached.begin_detach(path)?;
        lock(&self.names).remove(path);
        let detached = self.hooks.lock().await.as_mut().context("the agent ends")?.detach_options(id);
        detached?;
        let mut trouble = LogOnce::default();
        loop {
            let open = self.maps.sockets_of(id);
            if open == 0 {
                break;
            }
            if trouble.is_new(&open.to_string()) {
                warn!(
                    open,
                    cgroup = %path.display(),
                    "TLS sockets are still open; waiting for their applications to close them"
                );
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.hooks.lock().await.as_mut().context("the agent ends")?.detach(id)?;
        self.attached.remove(id);
        info!(cgroup = %path.display(), "detached");
        Ok(())
    }

    /// Paths of the cgroups that selectors have attached and that are not being detached.
    pub(crate) fn by_selector(&self) -> Vec<PathBuf> {
        let all = self.attached.all().into_values();
        let staying = all.filter(|service| service.by == AttachedBy::Selector && !service.stop.is_cancelled());
        staying.map(|service| service.path).collect()
    }

    /// Lists the services, as `ssa-agent list` shows them.
    pub(crate) fn infos(&self) -> Vec<ServiceInfo> {
        let info = |(id, service): (u64, Service)| ServiceInfo {
            sockets: self.maps.sockets_of(id),
            removed: !service.is_there(id),
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

    /// Attaches cgroups that selectors and names want and that are not attached, and lets go of those that are gone
    /// with all of their TLS sockets. `found`: all cgroups of the machine, by inode; `selects` says whether a selector
    /// wants one. Failures are logged. Blocks.
    pub(crate) fn reconcile(&self, found: &[(u64, PathBuf)], selects: impl Fn(&Path) -> bool) -> Reconciled {
        let mut reconciled = Reconciled::default();
        let mut hooks = self.hooks.blocking_lock();
        let Some(hooks) = hooks.as_mut() else { return reconciled };
        let all = self.attached.all();
        let gone = all.iter().filter(|(id, service)| !service.is_there(**id) && self.maps.sockets_of(**id) == 0);
        for (id, _service) in gone {
            if let Err(error) = hooks.forget(*id) {
                warn!(error = &error as &dyn std::error::Error, "the pins of a removed cgroup stay");
            }
            if let Some(service) = self.attached.remove(*id) {
                info!(cgroup = %service.path.display(), "an attached cgroup was removed");
                reconciled.gone.push(service.path);
            }
        }
        let attached = self.attached.paths();
        let names = lock(&self.names).clone();
        for (id, path) in found.iter().filter(|(id, _path)| !attached.contains_key(id)) {
            let by = if names.contains(path) { AttachedBy::Name } else { AttachedBy::Selector };
            // What is below an attached cgroup is served with it.
            let below = self.attached.paths().values().any(|other| path.starts_with(other));
            let selected = || selects(path) && !lock(&self.detached).contains(id);
            if below || (by == AttachedBy::Selector && !selected()) || lock(&self.refused).contains(id) {
                continue;
            }
            match self.add(hooks, path, by) {
                Ok(()) => {
                    reconciled.attached = true;
                    info!(cgroup = %path.display(), "attached");
                    let before = cgroup::processes(path);
                    if !before.is_empty() {
                        warn!(cgroup = %path.display(), processes = before.len(), "{LATE}");
                    }
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), cgroup = %path.display(), "a service can't be attached");
                    lock(&self.refused).insert(*id);
                }
            }
        }
        reconciled
    }

    /// Takes the hooks, for the end of the agent, which detaches all, or hands all over. None if they were taken
    /// before.
    pub(crate) async fn take_hooks(&self) -> Option<Hooks> {
        self.hooks.lock().await.take()
    }

    /// Puts the hooks back after a hand-over that failed, with this agent's programs in the guards.
    pub(crate) async fn put_hooks(&self, mut hooks: Hooks) -> Result<()> {
        for path in self.attached.paths().into_values().filter(|path| path.exists()) {
            hooks.attach(&path)?;
        }
        *self.hooks.lock().await = Some(hooks);
        Ok(())
    }

    /// Inodes of the cgroups that were detached by command.
    pub(crate) fn detached(&self) -> Vec<u64> {
        lock(&self.detached).iter().copied().collect()
    }
}

/// Log text for a service that had begun before it was attached.
const LATE: &str =
    "applications have begun before they were attached: sockets that they have are not served, new ones are";
