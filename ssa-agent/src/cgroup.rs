//! Finds, makes and enters cgroups of version 2.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Where the cgroup2 hierarchy is mounted, from /proc/mounts: `/sys/fs/cgroup`, or below it on
/// machines that still have version 1 as well.
pub(crate) fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("reading /proc/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let path = words.next()?;
            (words.next()? == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .context("no cgroup2 file system is mounted (mount -t cgroup2 none /sys/fs/cgroup)")
}

/// A path as given: one that starts below the hierarchy's root, unless it is a path of the file
/// system already.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    let mount = mount()?;
    if path.starts_with(&mount) {
        return Ok(path.to_owned());
    }
    Ok(mount.join(path.strip_prefix("/").unwrap_or(path)))
}

/// Makes a cgroup, unless it is there; says whether it made it.
pub(crate) fn create(path: &Path) -> Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("making cgroup {}", path.display())),
    }
}

/// Moves this process into a cgroup. Sockets that it has made before are not moved.
pub(crate) fn enter(path: &Path) -> Result<()> {
    let file = path.join("cgroup.procs");
    fs::write(&file, "0").with_context(|| format!("writing {} (root may)", file.display()))
}
