//! The attached cgroups: programs in them, and below them, have TLS sockets.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    pods,
    uncaptured::{self, Uncaptured},
};
use crate::{
    app::run::Agent,
    kernel::{bpf as sys, loader::Hooks, maps::Maps},
    sys::{cgroup, on_behalf},
};

/// All of them, by the inode of the cgroup.
pub(crate) struct Services {
    by_id: Mutex<BTreeMap<u64, Service>>,
    /// Cgroups that were attached by name, and not detached.
    names: Mutex<HashSet<PathBuf>>,
    /// Cgroups that could not be attached, which was said.
    refused: Mutex<HashSet<u64>>,
    /// Cgroups that were detached by command: rules don't attach them again.
    detached: Mutex<HashSet<u64>>,
    /// Held while something is attached or detached.
    hooks: tokio::sync::Mutex<Option<Hooks>>,
}

struct Service {
    path: PathBuf,
    /// How it came to be attached.
    by: By,
    /// Cancelled when it is detached: its held connects are refused, its connections reset.
    stop: CancellationToken,
    /// TCP sockets that there were when it was attached, by inode.
    before: HashSet<u32>,
}

/// How a cgroup came to be attached.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// By name, on the command line or by `ssa-agent attach`: if it is removed and made again, it is attached again.
    Name,
    /// By a `[[service]]` of the configuration.
    Rule,
}

/// One of them, as it is shown.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Shown {
    pub(crate) cgroup: PathBuf,
    /// Open TLS sockets that were made in it; those that came out of a listener are not counted.
    pub(crate) sockets: u64,
    /// The cgroup is gone; its sockets may live on.
    pub(crate) removed: bool,
    pub(crate) by: By,
}

impl Services {
    /// Attaches cgroups, and those that an agent of the same name has left attached.
    pub(crate) fn attach_all(
        mut hooks: Hooks,
        maps: &Maps,
        cgroups: &[PathBuf],
        detached: Vec<u64>,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let names = Mutex::new(cgroups.iter().cloned().collect());
        let services = Self {
            by_id: Mutex::default(),
            names,
            refused: Mutex::default(),
            detached: Mutex::new(detached.into_iter().collect()),
            hooks: tokio::sync::Mutex::default(),
        };
        for path in cgroups {
            services.add(&mut hooks, path, By::Name, stop)?;
        }
        let wanted = services.paths();
        for id in hooks.left_attached().into_iter().filter(|id| !wanted.contains_key(id)) {
            match on_behalf::cgroup_path(id).ok() {
                Some(path) => {
                    // A pod that no rule is for any more is let go.
                    let by = if pods::is_pod(&path) { By::Rule } else { By::Name };
                    services.add(&mut hooks, &path, by, stop)?;
                    info!(cgroup = %path.display(), "serving a cgroup that was left attached");
                    if by == By::Name {
                        lock(&services.names).insert(path);
                    }
                }
                // The kernel detaches everything with the last socket of a cgroup that is gone.
                None if maps.sockets_of(id) == 0 => hooks.forget(id)?,
                // Until then its guards stay, and refuse.
                None => {
                    let path = PathBuf::from(format!("removed, {id}"));
                    services
                        .lock()
                        .insert(id, Service { path, by: By::Rule, stop: stop.child_token(), before: HashSet::new() });
                }
            }
        }
        Ok(Self { hooks: Some(hooks).into(), ..services })
    }

    /// Says that the agent lives.
    pub(crate) async fn open(&self) -> Result<()> {
        Ok(self.hooks.lock().await.as_mut().context("the agent ends")?.open()?)
    }

    /// Attaches one more.
    pub(crate) async fn attach(&self, path: &Path, stop: &CancellationToken) -> Result<()> {
        let mut hooks = self.hooks.lock().await;
        let hooks = hooks.as_mut().context("the agent ends")?;
        ensure!(!self.paths().contains_key(&fs::metadata(path)?.ino()), "{} is attached already", path.display());
        self.add(hooks, path, By::Name, stop)?;
        lock(&self.names).insert(path.to_owned());
        lock(&self.detached).remove(&fs::metadata(path)?.ino());
        info!(cgroup = %path.display(), "attached");
        Ok(())
    }

    fn add(&self, hooks: &mut Hooks, path: &Path, by: By, stop: &CancellationToken) -> Result<()> {
        ensure!(
            !cgroup::is_own(path)?,
            "the agent itself is in {}: its own connections would come back to it",
            path.display()
        );
        let (id, fresh) = hooks.attach(path)?;
        // After it: what was made in between is counted as older, though it is served.
        let before = if fresh { uncaptured::inodes(path) } else { HashSet::new() };
        self.lock().insert(id, Service { path: path.to_owned(), by, stop: stop.child_token(), before });
        Ok(())
    }

    /// Detaches one by command: no rule attaches this very cgroup again.
    pub(crate) async fn detach_for_good(&self, path: &Path, maps: &Maps) -> Result<()> {
        let id = self.paths().into_iter().find(|(_id, attached)| attached == path).map(|(id, _path)| id);
        lock(&self.detached).extend(id);
        self.detach(path, maps).await
    }

    /// Detaches one: resets its connections, and waits until its programs have closed their TLS sockets, lest one become a
    /// plain socket.
    pub(crate) async fn detach(&self, path: &Path, maps: &Maps) -> Result<()> {
        let id = {
            let by_id = self.lock();
            let found = by_id.iter().find(|(_id, service)| service.path == path);
            let (id, service) = found.with_context(|| format!("{} is not attached", path.display()))?;
            ensure!(!service.stop.is_cancelled(), "{} is being detached already", path.display());
            service.stop.cancel();
            *id
        };
        lock(&self.names).remove(path);
        let detached = self.hooks.lock().await.as_mut().context("the agent ends")?.detach_options(id);
        detached?;
        let mut told = 0;
        loop {
            let open = maps.sockets_of(id);
            if open == 0 {
                break;
            }
            if open != told {
                warn!(open, cgroup = %path.display(), "TLS sockets are still open; waiting for their programs to close them");
                told = open;
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.hooks.lock().await.as_mut().context("the agent ends")?.detach(id)?;
        self.lock().remove(&id);
        info!(cgroup = %path.display(), "detached");
        Ok(())
    }

    /// Where each is.
    pub(crate) fn paths(&self) -> BTreeMap<u64, PathBuf> {
        self.lock().iter().map(|(id, service)| (*id, service.path.clone())).collect()
    }

    /// Where each is that is not being detached, and how it came to be attached.
    pub(crate) fn attached(&self) -> Vec<(PathBuf, By)> {
        let by_id = self.lock();
        let staying = by_id.values().filter(|service| !service.stop.is_cancelled());
        staying.map(|service| (service.path.clone(), service.by)).collect()
    }

    /// What `ssa-agent list` shows.
    pub(crate) fn shown(&self, maps: &Maps) -> Vec<Shown> {
        let shown = |(id, service): (&u64, &Service)| Shown {
            sockets: maps.sockets_of(*id),
            removed: !service.is_there(*id),
            cgroup: service.path.clone(),
            by: service.by,
        };
        self.lock().iter().map(shown).collect()
    }

    /// Sockets of services' programs that can't speak TLS. Reads much of /proc.
    pub(crate) fn uncaptured(&self) -> Vec<Uncaptured> {
        let services: Vec<_> = {
            let by_id = self.lock();
            by_id.values().map(|service| (service.path.clone(), service.before.clone())).collect()
        };
        services.iter().flat_map(|(path, before)| uncaptured::find(path, before)).collect()
    }

    /// Attaches what rules and names want and is not attached, and lets go of cgroups that are gone with all of their TLS
    /// sockets.
    fn look(
        &self,
        found: &[(u64, PathBuf)],
        wants: impl Fn(&Path) -> bool,
        maps: &Maps,
        stop: &CancellationToken,
    ) -> Looked {
        let mut looked = Looked::default();
        let mut hooks = self.hooks.blocking_lock();
        let Some(hooks) = hooks.as_mut() else { return looked };
        let gone: Vec<u64> = {
            let by_id = self.lock();
            by_id
                .iter()
                .filter(|(id, one)| !one.is_there(**id) && maps.sockets_of(**id) == 0)
                .map(|(id, _)| *id)
                .collect()
        };
        for id in gone {
            if let Err(error) = hooks.forget(id) {
                warn!(error = &error as &dyn std::error::Error, "the pins of a removed cgroup stay");
            }
            if let Some(service) = self.lock().remove(&id) {
                info!(cgroup = %service.path.display(), "an attached cgroup was removed");
                looked.gone.push(service.path);
            }
        }
        let attached = self.paths();
        let names = lock(&self.names).clone();
        for (id, path) in found.iter().filter(|(id, _path)| !attached.contains_key(id)) {
            let by = if names.contains(path) { By::Name } else { By::Rule };
            // What is below an attached cgroup is served with it.
            let below = self.paths().values().any(|other| path.starts_with(other));
            let by_rule = || wants(path) && !lock(&self.detached).contains(id);
            if below || (by == By::Rule && !by_rule()) || lock(&self.refused).contains(id) {
                continue;
            }
            match self.add(hooks, path, by, stop) {
                Ok(()) => {
                    looked.attached = true;
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
        looked
    }

    /// For people: its path, or nothing if it is gone.
    pub(crate) fn name(&self, id: u64) -> String {
        self.lock().get(&id).map_or_else(String::new, |service| service.path.display().to_string())
    }

    /// Cancelled when the service is detached.
    pub(crate) fn stop(&self, id: u64) -> CancellationToken {
        // Of none that is attached: one that was just detached.
        self.lock().get(&id).map_or_else(cancelled, |service| service.stop.clone())
    }

    /// For the end of the agent, which detaches all, or hands all over.
    pub(crate) async fn take_hooks(&self) -> Option<Hooks> {
        self.hooks.lock().await.take()
    }

    /// Puts them back, with this agent's programs in the guards.
    pub(crate) async fn put_hooks(&self, mut hooks: Hooks) -> Result<()> {
        for path in self.paths().into_values().filter(|path| path.exists()) {
            hooks.attach(&path)?;
        }
        *self.hooks.lock().await = Some(hooks);
        Ok(())
    }

    /// Cgroups that were detached by command, by inode.
    pub(crate) fn detached(&self) -> Vec<u64> {
        lock(&self.detached).iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Service>> {
        lock(&self.by_id)
    }
}

/// What came of a look at the cgroups.
#[derive(Default)]
struct Looked {
    /// Something was attached.
    attached: bool,
    /// What was let go.
    gone: Vec<PathBuf>,
}

impl Service {
    /// Whether its path is still this very cgroup's.
    fn is_there(&self, id: u64) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == id)
    }
}

/// What is said of a service that had begun before it was attached.
const LATE: &str = "programs have begun before they were attached: sockets that they have are not served, new ones are";

/// What the runtime can wait for.
struct Watch(Inotify);

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Follows the tree of cgroups: services are attached when they begin, and let go when they have ended.
pub(crate) async fn follow(agent: Arc<Agent>, stop: CancellationToken) -> Result<()> {
    /// What inotify has missed, such as a queue that was full, is found at the next look.
    const LOOK: Duration = Duration::from_secs(2);
    let inotify = sys::async_fd(Watch(Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?))?;
    let mount = cgroup::mount()?;
    loop {
        // Watched first: what is made afterwards is told of, and looked at again.
        let found = cgroup::all_below(&mount, |path| {
            let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
            // Gone, or no watches are left: the next look finds what it can.
            let _gone = inotify.get_ref().0.add_watch(path, flags);
        });
        let own = Arc::clone(&agent);
        let looked = tokio::task::spawn_blocking(move || {
            // First: what is attached has its rules.
            own.rules.look_again(&found);
            let looked = own.services.look(&found, |path| own.policies.wants(path), &own.maps, &own.stop);
            if looked.attached {
                own.policies.attached();
            }
            looked.gone.iter().for_each(|path| own.metrics.forget(&path.display().to_string()));
        });
        looked.await?;
        tokio::select! {
            ready = inotify.readable() => {
                // All that is there: one look is for all of it.
                while inotify.get_ref().0.read_events().is_ok_and(|events| !events.is_empty()) {}
                ready?.clear_ready();
            }
            () = sleep(LOOK) => {}
            () = agent.pods.changed.notified() => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cancelled() -> CancellationToken {
    let token = CancellationToken::new();
    token.cancel();
    token
}
