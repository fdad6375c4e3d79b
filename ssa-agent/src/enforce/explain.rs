//! Explanation of what becomes of a process's sockets, as the agent that runs decides it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use ssa_common::rule::Traffic;

use super::{
    decision::Enforcement,
    rules::{Ruling, Standing},
};
use crate::{
    policy::{Application, Direction},
    services::AttachedBy,
};

/// Sockets that are asked about.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Asked {
    /// Id of the process, in the agent's PID namespace.
    pub(crate) pid: u32,
    /// Direction: out for connections to the addresses, in for listeners at them.
    pub(crate) direction: Direction,
    /// Transport protocol of connections: UDP if true, else TCP.
    pub(crate) udp: bool,
    /// Addresses and ports.
    pub(crate) at: Vec<SocketAddr>,
}

/// Explanation of what becomes of a process's sockets that set no options of TLS, and of those that do.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Explanation {
    /// Executable of the process.
    pub(crate) executable: Option<PathBuf>,
    /// Real user id.
    pub(crate) uid: u32,
    /// Path of its cgroup below the mount.
    pub(crate) cgroup: PathBuf,
    /// Service that it belongs to; none if nobody serves it.
    pub(crate) service: Option<ExplainedService>,
    /// Reason why nobody serves it; empty if it is served.
    pub(crate) not_served: String,
    /// Outcomes of the addresses that were asked about, in their order.
    pub(crate) sockets: Vec<ExplainedSocket>,
    /// Policy of connections by its own options, or by the rule of the only address, as TOML.
    pub(crate) policy: String,
}

/// Service of a process.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ExplainedService {
    /// Path of the served cgroup.
    pub(crate) cgroup: PathBuf,
    /// Way in which it came to be attached.
    pub(crate) by: AttachedBy,
    /// Time at which this agent has attached it, in seconds since 1970.
    pub(crate) since: u64,
    /// Mark of a service that was detached and left closed.
    pub(crate) closed: bool,
}

/// Outcome of a socket that sets no options of TLS, at one address.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ExplainedSocket {
    /// Address and port.
    pub(crate) at: SocketAddr,
    /// Name of the rule; none if none is for it.
    pub(crate) rule: Option<String>,
    /// File and line of the rule.
    pub(crate) place: Option<String>,
    /// Outcome in words.
    pub(crate) outcome: String,
    /// Names that applications of its cgroup have resolved to the address.
    pub(crate) resolved: Vec<String>,
}

impl Enforcement {
    /// Explains what becomes of a process's sockets. Blocks: reads /proc. Errors: there is no such process.
    pub(crate) fn explain(&self, asked: &Asked) -> Result<Explanation> {
        let application = Application::of_process(asked.pid).with_context(|| format!("process {}", asked.pid))?;
        let (id, path) = self.rules.cgroup_at(&application.cgroup)?;
        let (standing, attached) = self.rules.settle(id);
        if attached {
            self.policies.cgroup_attached();
        }
        let service = match standing {
            Standing::Served(service) => self.rules.attached(service),
            Standing::Nobody | Standing::Unknown => None,
        };
        let not_served = match (standing, &service) {
            (_, Some(_)) => String::new(),
            (Standing::Served(_), None) => "its service was detached just now".to_owned(),
            (Standing::Nobody, None) => self.rules.why_nobody(&path),
            (Standing::Unknown, None) => {
                "it is not decided yet: the API server has not told of its pod, and what a rule could want is held"
                    .to_owned()
            }
        };
        let traffic = match (asked.direction, asked.udp) {
            (Direction::In, _) => Traffic::IN_TCP,
            (Direction::Out, false) => Traffic::OUT_TCP,
            (Direction::Out, true) => Traffic::OUT_UDP,
        };
        let file = self.rules.file();
        let profiles = file.profiles_of(&application);
        let mut policy = file.policy(&profiles);
        let closed = service.as_ref().is_some_and(|service| service.closed);
        let mut sockets = Vec::new();
        for at in &asked.at {
            let ruling = service.as_ref().map_or(Ruling::Plain, |_service| self.rules.ruling(id, traffic, *at));
            let (rule, outcome) = match ruling {
                Ruling::Unknown => (None, "refused: its rules are not known".to_owned()),
                Ruling::Plain if service.is_none() => (None, "left alone, as nobody serves the process".to_owned()),
                Ruling::Plain => (None, "no rule is for it, or one that leaves it alone".to_owned()),
                Ruling::Tls(found) if closed => {
                    (Some(found), "refused with ENOTCONN: the service is closed".to_owned())
                }
                Ruling::Tls(found) | Ruling::Denied(found) => {
                    let outcome = found.rule().outcome(traffic);
                    (Some(found), outcome)
                }
            };
            if let Some(found) = &rule
                && found.rule().mode().is_tls()
                && asked.at.len() == 1
            {
                policy = file.policy_by_rule(&profiles, found.rule());
            }
            sockets.push(ExplainedSocket {
                at: *at,
                place: rule.as_ref().map(|found| found.place()),
                rule: rule.map(|found| found.name().to_owned()),
                outcome,
                resolved: self.names.of(id, at.ip()),
            });
        }
        let Application { uid, cgroup, executable } = application;
        let policy = toml::to_string(&policy)?;
        Ok(Explanation { executable, uid, cgroup, service, not_served, sockets, policy })
    }
}

impl ExplainedService {
    /// Describes an attached cgroup.
    pub(super) fn new(cgroup: &Path, by: AttachedBy, since: SystemTime, closed: bool) -> Self {
        let since = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { cgroup: cgroup.to_owned(), by, since, closed }
    }
}
