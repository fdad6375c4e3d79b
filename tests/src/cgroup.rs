//! Cgroups of a test's own.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::agent::cgroup_mount;

/// A cgroup that goes with the test, and all that is below and in it.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A new one, directly below the mount.
    pub fn new(name: &str) -> Self {
        let cgroup = Self::absent(name);
        fs::create_dir(&cgroup.0).expect("root can make cgroups");
        cgroup
    }

    /// A path for a cgroup that the test makes itself, if at all.
    pub fn absent(name: &str) -> Self {
        Self(cgroup_mount().join(format!("ssa-test-{}-{name}", std::process::id())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path as an argument.
    pub fn text(&self) -> &str {
        self.0.to_str().expect("its name is ASCII")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _gone = fs::write(self.0.join("cgroup.kill"), "1");
        remove(&self.0);
    }
}

/// Removes a cgroup with all below it, as soon as those who were killed have gone.
pub fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove(&entry.path());
    }
    for _tick in 0..100 {
        if fs::remove_dir(path).is_ok() || !path.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
