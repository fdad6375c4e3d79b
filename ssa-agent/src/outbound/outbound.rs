//! All that a held connect needs of the agent.

use std::sync::Arc;

use crate::{
    connection::{Answers, ConnectionTable},
    drain::Drain,
    enforce::Enforcement,
    netns::Namespaces,
    options::Options,
    revocation::Revocation,
    services::Attached,
};

/// The parts that outbound connections share.
pub(crate) struct Outbound {
    /// May it connect, as what, with whom.
    pub(crate) enforcement: Arc<Enforcement>,
    /// What the application has set.
    pub(crate) options: Arc<Options>,
    /// Sockets inside the application's network namespace.
    pub(crate) namespaces: Arc<Namespaces>,
    /// Whether the peer's certificates are revoked.
    pub(crate) revocation: Arc<Revocation>,
    /// What the application can ask of its connection.
    pub(crate) answers: Answers,
    /// Open connections and failures, access log and metrics.
    pub(crate) table: ConnectionTable,
    /// Names of services, and whether one is being detached.
    pub(crate) attached: Arc<Attached>,
    /// The process's phase.
    pub(crate) drain: Drain,
}
