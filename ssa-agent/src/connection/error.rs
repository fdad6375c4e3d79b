//! Errors of connections that were not made, and the one table from them to an errno.

use std::{net::SocketAddr, time::Duration};

use openssl::error::ErrorStack;

use crate::{
    dial, enforce,
    kernel::{self, Errno},
    netns, options, revocation,
    telemetry::error_chain,
    tls::{self, Failed},
};

/// Reason why a connection was not made, by whose fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The agent can't make the sockets that take in the clients of a listener.
    #[error("clients can't be taken in")]
    ClientListener(#[source] netns::Error),
    /// The peer can't be reached: its network, the way there, or the servers of its name.
    #[error(transparent)]
    Dial(#[from] dial::Error),
    /// The administrator's configuration does not allow the connection.
    #[error(transparent)]
    Enforce(#[from] enforce::Error),
    /// The peer accepted the TCP connection, and did not finish the handshake.
    #[error("{to} did not finish the TLS handshake within {} s", limit.as_secs_f32())]
    HandshakeTimeout {
        /// Address of the peer.
        to: SocketAddr,
        /// Time that the policy gives the handshake.
        limit: Duration,
    },
    /// The kernel, or the machine, failed the agent.
    #[error("the TLS agent failed")]
    Kernel(#[from] kernel::Error),
    /// The application leg was not made, most likely because of the application's own firewall.
    #[error(
        "the connection from the application to the agent was not made within {} s: the firewall or the \
         IPAddressDeny= of the service must let it reach {net} and ::1",
        limit.as_secs_f32(),
        net = ssa_common::limits::LOOPBACK_NETWORK
    )]
    Leg {
        /// Time that the leg had.
        limit: Duration,
    },
    /// The agent can't make its sockets, or start its thread, in the application's network namespace.
    #[error("the TLS agent can't work in the network namespace")]
    Namespace(#[source] netns::Error),
    /// The maps of certificates are full.
    #[error("no room for the peer's certificates: {0}")]
    NoRoom(#[source] kernel::Error),
    /// The settings of the application can't be used.
    #[error(transparent)]
    Options(#[from] options::Error),
    /// Files that the application has named were not read in time: a slow file system, or the agent lacks descriptors.
    #[error("the certificates that the application has named could not be read within {} s", limit.as_secs_f32())]
    ReadTimeout {
        /// Time that reading had.
        limit: Duration,
    },
    /// A certificate of the peer's chain is revoked, or nobody says that it is not.
    #[error(transparent)]
    Revocation(#[from] revocation::Error),
    /// The administrator ends the agent, or detaches the service.
    #[error("the TLS agent ends")]
    Stopping,
    /// The handshake failed, or its settings.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

impl From<ErrorStack> for Error {
    fn from(error: ErrorStack) -> Self {
        Self::Tls(error.into())
    }
}

impl From<Failed<revocation::Error>> for Error {
    fn from(failed: Failed<revocation::Error>) -> Self {
        match failed {
            Failed::Check(error) => Self::Revocation(error),
            Failed::Tls(error) => Self::Tls(error),
        }
    }
}

impl Error {
    /// Errno that the application's `connect` fails with. Exhaustive on purpose. A held SYN can't end with any other
    /// errno (docs/adr/0001-hold-the-syn.md).
    pub(crate) fn errno(&self) -> Errno {
        use enforce::Error as Enforce;
        match self {
            Self::Dial(error) => error.errno(),
            Self::Enforce(
                Enforce::Denied(_) | Enforce::Limit(_) | Enforce::NoRule | Enforce::NotServed | Enforce::Undecided,
            ) => Errno::HostUnreachable,
            Self::Enforce(
                Enforce::ApplicationChanged(_)
                | Enforce::Invalid(_)
                | Enforce::Load(_)
                | Enforce::Map(_)
                | Enforce::Mount(_)
                | Enforce::Name(_)
                | Enforce::PolicyChanging
                | Enforce::RulesChanging,
            ) => Errno::Protocol,
            Self::ClientListener(_)
            | Self::HandshakeTimeout { .. }
            | Self::Kernel(_)
            | Self::Leg { .. }
            | Self::Namespace(_)
            | Self::ReadTimeout { .. }
            | Self::Stopping => Errno::HostUnreachable,
            Self::NoRoom(_) | Self::Options(_) | Self::Revocation(_) | Self::Tls(_) => Errno::Protocol,
        }
    }

    /// Reason in a word, for metrics and logs.
    pub(crate) fn reason(&self) -> &'static str {
        use enforce::Error as Enforce;
        match self {
            Self::Dial(error) => error.reason(),
            Self::Enforce(Enforce::Limit(_)) => "limit",
            Self::Enforce(Enforce::NoRule) => "no_rule",
            Self::Enforce(Enforce::Denied(_)) => "denied",
            Self::Enforce(Enforce::NotServed) => "not_served",
            Self::Enforce(Enforce::Undecided) => "undecided",
            Self::Enforce(Enforce::Invalid(_)) => "tls",
            Self::Enforce(
                Enforce::ApplicationChanged(_)
                | Enforce::Load(_)
                | Enforce::Map(_)
                | Enforce::Mount(_)
                | Enforce::Name(_)
                | Enforce::PolicyChanging
                | Enforce::RulesChanging,
            ) => "policy",
            Self::HandshakeTimeout { .. } => "handshake_timeout",
            Self::Leg { .. } => "leg",
            Self::ReadTimeout { .. } => "read_timeout",
            Self::Revocation(_) => "revocation",
            Self::Stopping => "stopping",
            Self::ClientListener(_) | Self::Kernel(_) | Self::Namespace(_) | Self::NoRoom(_) => "kernel",
            Self::Options(_) | Self::Tls(_) => "tls",
        }
    }

    /// Whether a limit of the configuration is the reason, which the log mentions once a second at most.
    pub(crate) fn is_limit(&self) -> bool {
        matches!(self, Self::Enforce(enforce::Error::Limit(_)))
    }

    /// Text for `TLS_ERROR`: the error and its causes in one line, at most `limit` bytes.
    pub(crate) fn text(&self, limit: usize) -> String {
        let mut text = error_chain(self);
        // One line of text without a NUL, whatever a peer has put into its certificate.
        text = text.replace(|letter: char| letter.is_control(), " ");
        while text.len() > limit {
            text.pop();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_causes_and_fits() {
        let to = "127.0.0.1:1".parse().unwrap();
        let source = std::io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let error = Error::from(dial::Error::Dial { to, source });
        assert_eq!(error.text(255), "connecting to 127.0.0.1:1 failed: Connection refused (os error 111)");
        assert_eq!(error.text(10), "connecting");
        assert_eq!(error.errno(), Errno::ConnectionRefused);
    }
}
