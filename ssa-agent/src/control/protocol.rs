//! Requests and answers of the control socket: one a line, JSON. docs/control.md has the protocol.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    connection::{ConnectionInfo, Failure},
    services::{ServiceInfo, uncaptured::Uncaptured},
};

/// Version of the protocol, which every request names.
pub(super) const VERSION: u32 = 1;

/// A line that is sent to an agent.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Request {
    /// Version of the protocol.
    pub(super) version: u32,
    pub(super) command: Command,
}

/// What an agent is asked.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    /// Read the configuration again, and put it in force.
    Reload,
    /// Attach a cgroup, by its path in the file system.
    Attach { cgroup: PathBuf },
    /// Reset its connections, wait until its applications have closed their TLS sockets, and let it go.
    Detach { cgroup: PathBuf },
    /// Tell which cgroups are attached.
    List,
    /// Tell of the TCP sockets of services' applications that can't speak TLS.
    Uncaptured,
    /// Tell of the open connections.
    Connections,
    /// Tell of the last connections that failed.
    Failures,
    /// Tell how the agent does.
    Status,
    /// Start the executable anew, and let it take this one's place.
    Upgrade,
    /// Let who asks take this one's place; it has the state of applications in this form.
    HandOver { abi: u32 },
}

/// What an agent answers.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// A policy is in force; how many there were, it among them.
    Reloaded { generation: u64 },
    /// It is attached, or is no longer.
    Done,
    /// The attached cgroups.
    Services(Vec<ServiceInfo>),
    /// TCP sockets that are older than the attachment, or of another cgroup.
    Uncaptured(Vec<Uncaptured>),
    /// The open connections, the oldest first.
    Connections(Vec<ConnectionInfo>),
    /// Connections that were not made or did not end in order, the newest last.
    Failures(Vec<Failure>),
    /// How the agent does.
    Status(Box<Status>),
    /// Another process serves now; connections that this one finishes.
    Upgraded { pid: u32, finishing: usize },
    /// This process is ready to be replaced.
    HandingOver { pid: u32 },
    /// Nothing has changed.
    Error(String),
}

/// How an agent does, as `ssa-agent status` shows it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Status {
    /// Version of the agent.
    pub(crate) version: String,
    /// Its process.
    pub(crate) pid: u32,
    /// How long it has run.
    pub(crate) seconds: u64,
    /// Attached cgroups.
    pub(crate) services: usize,
    /// Open connections.
    pub(crate) connections: usize,
    /// What the hooks have counted since the maps were made, by name.
    pub(crate) counters: BTreeMap<String, u64>,
}

/// A command, as it is sent.
pub(crate) fn request(command: Command) -> Request {
    Request { version: VERSION, command }
}

/// Entry point for fuzzers: what may come on the socket.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let text = serde_json::to_vec(&request).expect("what was read can be written");
        serde_json::from_slice::<Request>(&text).expect("and read again");
    }
}
