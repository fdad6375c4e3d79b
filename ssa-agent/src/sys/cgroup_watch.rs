//! Watches for cgroups that are made and removed (inotify(7)).

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::{Path, PathBuf},
    sync::Mutex,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use super::async_fd::async_fd;
use crate::sync::lock;

/// An inotify instance, as the runtime can wait for it.
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

/// Watches on folders of the cgroup file system.
pub(crate) struct CgroupWatch {
    inotify: AsyncFd<Watch>,
    watched: Mutex<Watched>,
}

/// Folders that are watched.
#[derive(Default)]
struct Watched {
    folders: HashMap<WatchDescriptor, PathBuf>,
    paths: HashSet<PathBuf>,
}

/// Changes of the tree of cgroups.
#[derive(Default)]
pub(crate) struct Changes {
    /// Paths of cgroups that were made.
    pub(crate) made: Vec<PathBuf>,
    /// Paths of cgroups that were removed.
    pub(crate) removed: Vec<PathBuf>,
    /// Whether some were missed: the kernel's queue was full.
    pub(crate) missed: bool,
}

impl CgroupWatch {
    /// Makes an instance that watches nothing yet. Must be called inside the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = async_fd(Watch(Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?))?;
        Ok(Self { inotify, watched: Mutex::default() })
    }

    /// Adds a watch for cgroups that are made and removed directly below one. That the cgroup is gone, or that no
    /// watches are left, is no error: the caller looks again from time to time.
    pub(crate) fn add(&self, cgroup: &Path) {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        let mut watched = lock(&self.watched);
        if watched.paths.contains(cgroup) {
            return;
        }
        if let Ok(watch) = self.inotify.get_ref().0.add_watch(cgroup, flags) {
            watched.folders.insert(watch, cgroup.to_owned());
            watched.paths.insert(cgroup.to_owned());
        }
    }

    /// Waits until something was made or removed, and returns all that was until then. Cancellation loses nothing.
    pub(crate) async fn changed(&self) -> io::Result<Changes> {
        let mut ready = self.inotify.readable().await?;
        let mut changes = Changes::default();
        while let Ok(events) = self.inotify.get_ref().0.read_events() {
            let mut watched = lock(&self.watched);
            let Watched { folders, paths } = &mut *watched;
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    changes.missed = true;
                    paths.clear();
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    folders.remove(&event.wd);
                } else if let (Some(folder), Some(name), true) =
                    (folders.get(&event.wd), event.name, event.mask.contains(AddWatchFlags::IN_ISDIR))
                {
                    let path = folder.join(name);
                    if event.mask.contains(AddWatchFlags::IN_CREATE) {
                        changes.made.push(path);
                    } else {
                        // Another one of this name is to be watched anew.
                        paths.remove(&path);
                        changes.removed.push(path);
                    }
                }
            }
        }
        ready.clear_ready();
        Ok(changes)
    }
}
