//! Why a network namespace can't be served.

use std::io;

use crate::kernel;

/// A namespace that can't be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The process that has called has ended.
    #[error("process {tgid} can't be found")]
    ProcessGone { tgid: u32, source: io::Error },
    /// Its steering program or a map.
    #[error("steering in the network namespace failed")]
    Steer(#[from] kernel::Error),
    /// A socket or a thread.
    #[error("sockets in the network namespace failed")]
    Sockets(#[from] io::Error),
    /// All places of [`ssa_common::steer::Target`] are taken.
    #[error("applications of too many cgroups listen in the network namespace")]
    Full,
    /// The socket was handed to a process elsewhere.
    #[error("the socket is of another network namespace than its application, and of none served before")]
    WrongNamespace,
}
