//! TCP sockets that applications of a service have and that can't speak TLS: made before the service was attached, or
//! in another cgroup, such as activation sockets and those that were passed on.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    net::SocketAddr,
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::sys::{
    cgroup,
    sock_diag::{self, Tcp},
};

/// Reason why a socket is not captured.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    /// The socket is older than the attachment.
    Before,
    /// The socket was made in a cgroup that does not belong to the service.
    Elsewhere,
}

/// A TCP socket that the hooks do not serve, as `ssa-agent list` and the control socket show it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Uncaptured {
    /// Path of the attached cgroup.
    pub(crate) service: String,
    /// Id of a process that has it; others may, too.
    pub(crate) pid: u32,
    /// Local address.
    pub(crate) local: SocketAddr,
    /// Remote address; none if it listens, or is not connected.
    pub(crate) peer: Option<SocketAddr>,
    /// Whether it listens.
    pub(crate) listens: bool,
    /// Reason why it is not captured.
    pub(crate) why: Why,
}

/// Inodes of the TCP sockets that were made in a cgroup, or below it, and that processes there have now. Blocks: reads
/// /proc.
pub(crate) fn inodes(path: &Path) -> HashSet<u32> {
    let own = ids(path);
    sockets(path).into_iter().filter(|(_pid, tcp)| own.contains(&tcp.cgroup)).map(|(_pid, tcp)| tcp.inode).collect()
}

/// Finds the TCP sockets of a service's processes that the hooks don't serve. `before`: inodes of sockets that existed
/// when the service was attached. Blocks: reads /proc.
pub(crate) fn find(path: &Path, before: &HashSet<u32>) -> Vec<Uncaptured> {
    let own = ids(path);
    let mut found = Vec::new();
    for (pid, tcp) in sockets(path) {
        let why = match (own.contains(&tcp.cgroup), before.contains(&tcp.inode)) {
            (false, _) => Why::Elsewhere,
            (true, true) => Why::Before,
            (true, false) => continue,
        };
        let service = path.display().to_string();
        let peer = (tcp.remote.port() != 0).then_some(tcp.remote);
        found.push(Uncaptured { service, pid, local: tcp.local, peer, listens: tcp.listens, why });
    }
    found
}

fn ids(path: &Path) -> HashSet<u64> {
    cgroup::all_below(path, |_path| ()).into_iter().map(|(id, _path)| id).collect()
}

/// Lists the TCP sockets of a cgroup's processes, each once. Processes that end meanwhile are left out.
fn sockets(path: &Path) -> Vec<(u32, Tcp)> {
    let mut owners: HashMap<u32, u32> = HashMap::new();
    let mut namespaces: HashMap<String, File> = HashMap::new();
    for pid in cgroup::processes(path) {
        let process = Path::new("/proc").join(pid.to_string());
        for link in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(link.path()) else { continue };
            let inode = target
                .to_string_lossy()
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']')?.parse::<u32>().ok());
            owners.extend(inode.map(|inode| (inode, pid)));
        }
        let namespace = process.join("ns/net");
        if let (Ok(name), Ok(file)) = (fs::read_link(&namespace), File::open(&namespace)) {
            namespaces.entry(name.to_string_lossy().into_owned()).or_insert(file);
        }
    }
    if owners.is_empty() {
        return Vec::new();
    }
    let listed = namespaces.into_values().flat_map(|namespace| there(namespace).unwrap_or_default());
    listed.filter_map(|tcp| Some((owners.remove(&tcp.inode)?, tcp))).collect()
}

/// Lists the TCP sockets of a network namespace (`sock_diag(7)`), by a thread of its own that enters it.
fn there(namespace: File) -> io::Result<Vec<Tcp>> {
    let look = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        sock_diag::tcp()
    };
    // A thread of its own, which ends there.
    let looking = thread::Builder::new().name("sock_diag".to_owned()).spawn(look)?;
    looking.join().map_err(|_panic| io::Error::other("the thread died"))?
}
