//! Requests and answers of the control socket: one a line, JSON. docs/control.md has the protocol.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    connection::{ConnectionInfo, Failure},
    enforce::{Asked, Explanation},
    services::{ServiceInfo, uncaptured::Uncaptured},
};

/// Version of the protocol, which every request names.
pub(super) const VERSION: u32 = 1;

/// Line that is sent to an agent.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Request {
    /// Version of the protocol: [`VERSION`].
    pub(super) version: u32,
    /// Command of the request.
    pub(super) command: Command,
}

/// Command to an agent.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    /// Read the configuration again, and put it in force.
    Reload,
    /// Attach a cgroup, by its path in the file system.
    Attach {
        /// Path of the cgroup in the file system.
        cgroup: PathBuf,
    },
    /// Reset a cgroup's connections, and let it go. Where a rule makes something TLS it is left closed.
    Detach {
        /// Path of the cgroup in the file system.
        cgroup: PathBuf,
        /// Word that opens: what rules made TLS is plaintext from now on.
        #[serde(default)]
        plaintext: bool,
    },
    /// Explain what becomes of a process's sockets.
    Explain(Asked),
    /// List the attached cgroups.
    List,
    /// List the TCP sockets of services' applications that can't speak TLS.
    Uncaptured,
    /// List the open connections.
    Connections,
    /// List the last connections that failed.
    Failures,
    /// Describe the agent: its process, and what it has counted.
    Status,
    /// Start the executable anew, and let it take this one's place.
    Upgrade,
    /// Let the asking agent take this one's place.
    HandOver {
        /// Form in which it keeps the state of applications: `ABI_VERSION` of ssa-common.
        abi: u32,
    },
}

/// Answer of an agent.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Another policy is in force.
    Reloaded {
        /// Number of policies that were in force, this one among them.
        generation: u64,
    },
    /// Done: the cgroup is attached, or is no longer.
    Done,
    /// The cgroup is detached, and what its rules make TLS is refused.
    LeftClosed,
    /// Explanation of what becomes of a process's sockets.
    Explanation(Box<Explanation>),
    /// Attached cgroups.
    Services(Vec<ServiceInfo>),
    /// TCP sockets that are older than the attachment, or of another cgroup.
    Uncaptured(Vec<Uncaptured>),
    /// Open connections, the oldest first.
    Connections(Vec<ConnectionInfo>),
    /// Connections that were not made or did not end in order, the newest last.
    Failures(Vec<Failure>),
    /// Description of the agent.
    Status(Box<Status>),
    /// Another process serves now.
    Upgraded {
        /// Id of that process.
        pid: u32,
        /// Number of connections that this process finishes.
        finishing: usize,
    },
    /// Ready to be replaced.
    HandingOver {
        /// Id of this process.
        pid: u32,
    },
    /// Error, in words; nothing has changed.
    Error(String),
}

/// Description of an agent, as `ssa-agent status` shows it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Status {
    /// Version of the agent.
    pub(crate) version: String,
    /// Id of its process.
    pub(crate) pid: u32,
    /// Seconds for which it has run.
    pub(crate) seconds: u64,
    /// Number of attached cgroups.
    pub(crate) services: usize,
    /// Number of open connections.
    pub(crate) connections: usize,
    /// Counters of the hooks since the maps were made, by name.
    pub(crate) counters: BTreeMap<String, u64>,
}

/// Makes the request of a command, in this version of the protocol.
pub(crate) fn request(command: Command) -> Request {
    Request { version: VERSION, command }
}

/// Entry point for fuzzers of the requests that may come on the socket.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let text = serde_json::to_vec(&request).expect("what was read can be written");
        serde_json::from_slice::<Request>(&text).expect("and read again");
    }
}
