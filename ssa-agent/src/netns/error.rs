//! Errors of network namespaces that can't be served.

use std::io;

use crate::kernel;

/// Reason why a network namespace can't be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The process that has called has ended.
    #[error("process {tgid} can't be found")]
    ProcessGone {
        /// Id of the process (`tgid`).
        tgid: u32,
        /// Error of /proc.
        source: io::Error,
    },
    /// The namespace's steering program, or one of its maps, can't be had.
    #[error("steering in the network namespace failed")]
    Steer(#[from] kernel::Error),
    /// A socket or a thread can't be made.
    #[error("sockets in the network namespace failed")]
    Sockets(#[from] io::Error),
    /// No place of [`ssa_common::steer::Target`] is free.
    #[error("applications of too many cgroups listen in the network namespace")]
    Full,
    /// The socket was handed to a process elsewhere.
    #[error("the socket is of another network namespace than its application, and of none served before")]
    WrongNamespace,
}
