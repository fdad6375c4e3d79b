//! Pins of all agents of the machine: of this one's version and others, running or gone.
//!
//! A folder `BPFFS/ssa/v<ABI>-<name>` has an agent's maps, and below it one or more folders with links of guards. Maps
//! of another version are not read, but for [`Counter::Sockets`], whose place never changes.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use nix::fcntl::{Flock, FlockArg};
use ssa_common::{
    ABI_VERSION,
    cgroup::{Cgroup, UNDECIDED, owner},
    limits::Counter,
};

use super::{
    bpf,
    error::Error,
    fmod_ret,
    loader::{MAKERS, OWNERS, detach_link, unpin},
};

/// Pins of an agent.
pub(crate) struct Pins {
    /// Name of the agent: an inode, or `machine`.
    pub(crate) name: String,
    /// Version of the layout ([`ABI_VERSION`]).
    pub(crate) abi: u32,
    /// Folder of the pins.
    pub(crate) path: PathBuf,
}

impl Pins {
    /// Lists the pins of all agents below a bpffs.
    pub(crate) fn all(bpffs: &Path) -> Vec<Self> {
        let folders = fs::read_dir(bpffs.join("ssa")).into_iter().flatten().flatten();
        let mut all: Vec<Self> = folders.filter_map(|folder| Self::parse(folder.path())).collect();
        all.sort_by(|one, other| (&one.name, one.abi).cmp(&(&other.name, other.abi)));
        all
    }

    fn parse(path: PathBuf) -> Option<Self> {
        let file = path.file_name()?.to_str()?;
        let (abi, name) = file.strip_prefix('v')?.split_once('-')?;
        Some(Self { name: name.to_owned(), abi: abi.parse().ok()?, path })
    }

    /// Whether they are of this version.
    pub(crate) fn is_own_version(&self) -> bool {
        self.abi == ABI_VERSION
    }

    /// Whether an agent has them in use.
    pub(crate) fn is_in_use(&self) -> bool {
        self.path.exists() && self.lock().is_none()
    }

    /// Keeps agents from using them, for as long as what is returned is there; none if one does already.
    pub(crate) fn lock(&self) -> Option<Flock<fs::File>> {
        let folder = fs::File::open(&self.path).ok()?;
        Flock::lock(folder, FlockArg::LockExclusiveNonblock).ok()
    }

    /// Number of guards, of all folders.
    pub(crate) fn guards(&self) -> usize {
        self.folders().iter().map(|folder| fs::read_dir(folder).into_iter().flatten().count()).sum()
    }

    /// Number of open TLS sockets by their own options: without guards they would be plain ones.
    pub(crate) fn open_sockets(&self) -> u64 {
        let counters = bpf::pinned(&self.path.join("COUNTERS"));
        counters.and_then(|map| bpf::map_get(map.as_fd(), &(Counter::Sockets as u32))).unwrap_or(0)
    }

    /// Decision on a cgroup; none if there is none, or the maps are of another version.
    pub(crate) fn cgroup(&self, id: u64) -> Option<Cgroup> {
        let map = self.is_own_version().then(|| bpf::pinned(&self.path.join("CGROUPS")).ok())??;
        bpf::map_get(map.as_fd(), &id).ok()
    }

    /// Decisions on all cgroups; none of another version.
    pub(crate) fn cgroups(&self) -> Vec<(u64, Cgroup)> {
        let map = self.is_own_version().then(|| MapData::from_pin(self.path.join("CGROUPS")).ok()).flatten();
        let map = map.and_then(|map| BpfHashMap::<_, u64, Cgroup>::try_from(Map::HashMap(map)).ok());
        let entries = map.iter().flat_map(|map| map.iter().filter_map(Result::ok));
        entries.filter(|(id, _decision)| *id != UNDECIDED).collect()
    }

    /// Inodes of the cgroups that older versions, whose guards are attached to each service, have attached.
    pub(crate) fn attached_one_by_one(&self) -> Vec<u64> {
        let names = self.folders().into_iter().filter_map(|folder| folder.file_name()?.to_str()?.parse().ok());
        names.collect()
    }

    /// Detaches all guards and removes all pins. Only right when no TLS socket is left, or when it is meant.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Bpffs { path, source }
        };
        for folder in self.folders() {
            // First those that make TLS sockets.
            for name in MAKERS {
                detach_link(&folder, name)?;
            }
            for file in fs::read_dir(&folder).map_err(failed(&folder))?.flatten() {
                detach_link(&folder, &file.file_name().to_string_lossy())?;
            }
            fs::remove_dir(&folder).map_err(failed(&folder))?;
        }
        self.disown();
        // First the one that leaves marks, which the others take.
        fmod_ret::unpin_marker(&self.path).map_err(failed(&self.path))?;
        for file in fs::read_dir(&self.path).map_err(failed(&self.path))?.flatten() {
            unpin(&self.path, &file.file_name().to_string_lossy())?;
        }
        fs::remove_dir(&self.path).map_err(failed(&self.path))
    }

    /// Takes this agent's cgroups out of the map that all agents share.
    fn disown(&self) {
        let shared = self.path.parent().map(|folder| folder.join(format!("v{}", self.abi)).join(OWNERS));
        let map = shared.filter(|_| self.is_own_version()).and_then(|pin| MapData::from_pin(pin).ok());
        let Some(Ok(mut owners)) = map.map(|map| BpfHashMap::<_, u64, u64>::try_from(Map::HashMap(map))) else {
            return;
        };
        let own = owner(&self.name);
        let ids: Vec<u64> =
            owners.iter().filter_map(Result::ok).filter(|(_id, owner)| *owner == own).map(|(id, _owner)| id).collect();
        for id in ids {
            let _there = owners.remove(&id);
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
    }
}
