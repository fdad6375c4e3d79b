//! An application, as profiles tell one from another.

use std::{io, path::PathBuf};

use crate::sys::as_caller::executable_of;

/// An application, as far as profiles tell one from another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Application {
    /// Real user id.
    pub(crate) uid: u32,
    /// Its cgroup's path below the mount, with a slash before it.
    pub(crate) cgroup: PathBuf,
    /// Absolute path; none if it can't be had, or no profile could go by it.
    pub(crate) executable: Option<PathBuf>,
}

impl Application {
    /// A running process, from /proc.
    pub(crate) fn of_process(pid: u32) -> io::Result<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(process.join("status"))?;
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let uid =
            uid.and_then(|uids| uids.split_whitespace().next()?.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let cgroups = std::fs::read_to_string(process.join("cgroup"))?;
        // cgroups(7): version 2 is hierarchy 0.
        let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::")).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { uid, cgroup: PathBuf::from(cgroup), executable: Some(executable_of(&process)?) })
    }
}
