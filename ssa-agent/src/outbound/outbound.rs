//! Parts of the agent that a held connect needs.

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

/// Parts of the agent that outbound connections share.
pub(crate) struct Outbound {
    /// Configuration that decides whether a socket may connect, as what, and with whom.
    pub(crate) enforcement: Arc<Enforcement>,
    /// Settings of applications.
    pub(crate) options: Arc<Options>,
    /// Sockets inside the application's network namespace.
    pub(crate) namespaces: Arc<Namespaces>,
    /// Revocation checks of the peer's certificates.
    pub(crate) revocation: Arc<Revocation>,
    /// Answers to an application that asks about its connection.
    pub(crate) answers: Answers,
    /// Open connections and failures, access log and metrics.
    pub(crate) table: ConnectionTable,
    /// Paths of services, and whether one is being detached.
    pub(crate) attached: Arc<Attached>,
    /// Phase of the process.
    pub(crate) drain: Drain,
}
