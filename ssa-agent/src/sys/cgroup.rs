//! Cgroups of version 2: finds, makes and enters them.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

/// Mount point of the cgroup2 hierarchy, from /proc/mounts: `/sys/fs/cgroup`, or below it on machines that still have
/// version 1 as well.
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

/// Path in the file system of a cgroup as given: one that starts below the hierarchy's root, unless it is a path of the
/// file system already. Errors: it names no cgroup, or a folder outside.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    let mount = mount()?;
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    ensure!(plain && path.file_name().is_some(), "{path:?} names no cgroup");
    if path.starts_with(&mount) {
        return Ok(path.to_owned());
    }
    let below = mount.join(path.strip_prefix("/").unwrap_or(path));
    ensure!(
        path.is_relative() || below.is_dir() || !path.exists(),
        "{} is no cgroup: those are below {}. A cgroup of this name is {}",
        path.display(),
        mount.display(),
        below.display()
    );
    Ok(below)
}

/// Makes a cgroup, unless it is there; true if it made it.
pub(crate) fn create(path: &Path) -> Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("making cgroup {}", path.display())),
    }
}

/// Lists a cgroup and all below it: inodes and paths, those above first. `each` is called before what is below is read.
/// Cgroups that vanish meanwhile are left out.
pub(crate) fn all_below(path: &Path, mut each: impl FnMut(&Path)) -> Vec<(u64, PathBuf)> {
    let mut found = Vec::new();
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        each(&path);
        let children = fs::read_dir(&path).into_iter().flatten().flatten();
        left.extend(
            children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())).map(|child| child.path()),
        );
        found.push((metadata.ino(), path));
    }
    found
}

/// Ids of the processes in a cgroup and below it.
pub(crate) fn processes(path: &Path) -> Vec<u32> {
    let mut all = Vec::new();
    for (_id, path) in all_below(path, |_path| ()) {
        let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        all.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    all
}

/// Joins the cgroup namespace of the machine (cgroup_namespaces(7)), if this process is in another, as in a container:
/// paths are those of the machine then, and cgroups outside can be entered. In the machine's own PID namespace, process
/// 1 is there.
pub(crate) fn join_machine() -> Result<()> {
    let (own, machine) = (fs::read_link("/proc/self/ns/cgroup"), fs::read_link("/proc/1/ns/cgroup"));
    if own.is_ok() && machine.is_ok() && own.ok() != machine.ok() {
        let namespace = fs::File::open("/proc/1/ns/cgroup").context("the cgroup namespace of process 1")?;
        setns(&namespace, CloneFlags::CLONE_NEWCGROUP).context("joining the cgroup namespace of process 1")?;
    }
    Ok(())
}

/// Whether this process is in a cgroup, or below it.
pub(crate) fn is_own(path: &Path) -> Result<bool> {
    Ok(own()?.starts_with(path))
}

/// Path in the file system of this process's cgroup.
pub(crate) fn own() -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").context("reading /proc/self/cgroup")?;
    // cgroups(7): version 2 is hierarchy 0.
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Ok(mount()?.join(own.trim_start_matches('/')))
}

/// Moves this process into a cgroup. Sockets that it has made before are not moved.
pub(crate) fn enter(path: &Path) -> Result<()> {
    let file = path.join("cgroup.procs");
    fs::write(&file, "0").with_context(|| format!("writing {} (root may)", file.display()))
}
