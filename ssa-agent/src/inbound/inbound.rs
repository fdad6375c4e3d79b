//! Parts of the agent that listeners and their clients need.

use std::sync::Arc;

use super::{accepted::AcceptedSockets, listeners::Listeners, parking::Parking};
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

/// Parts of the agent that inbound connections share.
pub(crate) struct Inbound {
    /// Configuration that decides whether a socket may listen, and as what.
    pub(crate) enforcement: Arc<Enforcement>,
    /// Settings of applications.
    pub(crate) options: Arc<Options>,
    /// Sockets inside the application's network namespace.
    pub(crate) namespaces: Arc<Namespaces>,
    /// Revocation checks of clients' certificates, and OCSP responses about the application's own.
    pub(crate) revocation: Arc<Revocation>,
    /// Answers to an application that asks about an accepted socket.
    pub(crate) answers: Answers,
    /// Open connections and failures, access log and metrics.
    pub(crate) table: ConnectionTable,
    /// Paths of services, and whether one is being detached.
    pub(crate) attached: Arc<Attached>,
    /// Phase of the process.
    pub(crate) drain: Drain,
    /// Maps of the hooks of sockets that listen.
    pub(crate) maps: Arc<ListenerMaps>,
    /// Listeners that are served.
    pub(crate) listeners: Listeners,
    /// SYNs that came to listeners before they were served.
    pub(crate) parking: Parking,
    /// Sockets that have come out of the listeners.
    pub(crate) accepted: AcceptedSockets,
}
