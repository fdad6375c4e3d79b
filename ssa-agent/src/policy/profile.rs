//! Which profiles are for a program.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use super::{
    file::{File, Profile},
    policy::Policy,
};

/// What a program is, as far as profiles ask.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Program {
    pub(crate) uid: u32,
    /// Its cgroup's path below the mount, with a slash before it.
    pub(crate) cgroup: PathBuf,
    /// None if it can't be had, or does not matter.
    pub(crate) executable: Option<PathBuf>,
}

impl Program {
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
        Ok(Self { uid, cgroup: PathBuf::from(cgroup), executable: Some(executable(&process)?) })
    }
}

/// The program file of a process. One that was replaced since is still the same program.
pub(crate) fn executable(process: &Path) -> io::Result<PathBuf> {
    let link = std::fs::read_link(process.join("exe"))?;
    let text = link.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| link.clone(), PathBuf::from))
}

impl Profile {
    /// Whether it is for programs of this cgroup, whatever else it asks.
    pub(crate) fn takes_cgroup(&self, cgroup: &Path) -> bool {
        let below = |path: &PathBuf| {
            let path = Path::new("/").join(path.strip_prefix("/").unwrap_or(path));
            cgroup.starts_with(path)
        };
        let in_unit = |unit: &String| cgroup.components().any(|part| part == Component::Normal(unit.as_ref()));
        self.cgroup.as_ref().is_none_or(below) && self.unit.as_ref().is_none_or(in_unit)
    }

    pub(crate) fn takes_any_cgroup(&self) -> bool {
        self.cgroup.is_none() && self.unit.is_none()
    }

    pub(crate) fn takes_user(&self, uid: u32) -> bool {
        self.user.is_none_or(|user| user.0 == uid)
    }

    fn takes(&self, program: &Program) -> bool {
        let takes_executable = self.executable.as_ref().is_none_or(|path| program.executable.as_ref() == Some(path));
        takes_executable && self.takes_cgroup(&program.cgroup) && self.takes_user(program.uid)
    }

    /// The greater, the more specific: by executable, then unit, then depth of the cgroup, then user.
    fn rank(&self) -> (bool, bool, usize, bool) {
        let depth = self.cgroup.as_ref().map_or(0, |path| path.components().count());
        (self.executable.is_some(), self.unit.is_some(), depth, self.user.is_some())
    }

    /// What it asks of a program, in words.
    pub(crate) fn asks(&self) -> String {
        let mut parts = Vec::new();
        if let Some(path) = &self.executable {
            parts.push(format!("executable = {}", path.display()));
        }
        if let Some(unit) = &self.unit {
            parts.push(format!("unit = {unit}"));
        }
        if let Some(path) = &self.cgroup {
            parts.push(format!("cgroup = {}", path.display()));
        }
        if let Some(user) = self.user {
            parts.push(format!("user = {}", user.0));
        }
        parts.join(", ")
    }
}

impl File {
    /// The profiles that are for a program, by index, the least specific first; later ones of the same
    /// rank after earlier ones.
    pub(crate) fn profiles_of(&self, program: &Program) -> Vec<usize> {
        self.ranked(|profile| profile.takes(program))
    }

    pub(super) fn ranked(&self, takes: impl Fn(&Profile) -> bool) -> Vec<usize> {
        let mut indices: Vec<usize> = self
            .profiles
            .iter()
            .enumerate()
            .filter(|(_index, profile)| takes(profile))
            .map(|(index, _)| index)
            .collect();
        indices.sort_by_key(|index| self.profiles[*index].rank());
        indices
    }

    /// The machine's policy as these profiles refine it, one after the other.
    pub(crate) fn policy(&self, profiles: &[usize]) -> Policy {
        let mut policy = self.machine();
        for index in profiles {
            self.profiles[*index].refine(&mut policy);
        }
        policy
    }

    /// Name of a profile, and whom it is for.
    pub(crate) fn describe(&self, index: usize) -> (&str, String) {
        let profile = &self.profiles[index];
        (profile.name.get_ref(), profile.asks())
    }

    /// Whether a profile that takes a program's cgroup and user goes by its executable as well.
    pub(crate) fn asks_for_executable(&self, program: &Program) -> bool {
        let mut of_cgroup_and_user =
            self.profiles.iter().filter(|one| one.takes_cgroup(&program.cgroup) && one.takes_user(program.uid));
        of_cgroup_and_user.any(|profile| profile.executable.is_some())
    }

    pub(super) fn ranked_among(&self, profiles: &[usize], takes: impl Fn(&usize) -> bool) -> Vec<usize> {
        let all = self.ranked(|_profile| true);
        all.into_iter().filter(|index| profiles.contains(index) && takes(index)).collect()
    }
}
