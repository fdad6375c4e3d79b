//! All that listeners and their clients need of the agent.

use std::sync::Arc;

use super::{accepted::AcceptedSockets, listeners::Listeners};
use crate::{
    connection::{Answers, ConnectionTable},
    drain::Drain,
    enforce::Enforcement,
    kernel::ListenerMaps,
    netns::Namespaces,
    options::Options,
    revocation::Revocation,
    services::Attached,
};

/// The parts that inbound connections share.
pub(crate) struct Inbound {
    /// May it listen, as what.
    pub(crate) enforcement: Arc<Enforcement>,
    /// What the application has set.
    pub(crate) options: Arc<Options>,
    /// Sockets inside the application's network namespace.
    pub(crate) namespaces: Arc<Namespaces>,
    /// Whether clients' certificates are revoked, and what is stapled to the application's own.
    pub(crate) revocation: Arc<Revocation>,
    /// What the application can ask of an accepted socket.
    pub(crate) answers: Answers,
    /// Open connections and failures, access log and metrics.
    pub(crate) table: ConnectionTable,
    /// Names of services, and whether one is being detached.
    pub(crate) attached: Arc<Attached>,
    /// The process's phase.
    pub(crate) drain: Drain,
    /// Who listens, as the hooks have it.
    pub(crate) maps: Arc<ListenerMaps>,
    /// The listeners that are served.
    pub(crate) listeners: Listeners,
    /// The sockets that have come out of them.
    pub(crate) accepted: AcceptedSockets,
}
