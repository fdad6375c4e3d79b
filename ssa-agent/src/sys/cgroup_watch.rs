//! Watches for cgroups that are made and removed (inotify(7)).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use super::async_fd::async_fd;

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
pub(crate) struct CgroupWatch(AsyncFd<Watch>);

impl CgroupWatch {
    /// Makes an instance that watches nothing yet. Must be called inside the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        async_fd(Watch(Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?)).map(Self)
    }

    /// Adds a watch for cgroups that are made and removed directly below one. That the cgroup is gone, or that no
    /// watches are left, is no error: the caller looks again from time to time.
    pub(crate) fn add(&self, cgroup: &Path) {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        let _gone = self.0.get_ref().0.add_watch(cgroup, flags);
    }

    /// Completes when something was made or removed, for all that was until then. Cancellation loses nothing.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        let ready = self.0.readable().await;
        while self.0.get_ref().0.read_events().is_ok_and(|events| !events.is_empty()) {}
        ready?.clear_ready();
        Ok(())
    }
}
