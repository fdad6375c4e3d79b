//! Why a connection failed, and the one table from that to an errno.

use std::{io, net::SocketAddr, time::Duration};

use crate::{
    dial::resolve,
    enforce::limits,
    kernel::{error as kernel, packet::Errno},
    netns::namespace as netns,
    sys::as_caller as caller,
    tls::client as tls,
};

/// A connection that was not made, by whose fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The peer's network, or the way there.
    #[error("connecting to {to} failed")]
    Dial { to: SocketAddr, source: io::Error },
    /// None of a name's addresses.
    #[error("no address of {host} answers: {tried}")]
    DialAll { host: String, tried: String, errno: Errno },
    /// The name has no address.
    #[error("no address found for {host}")]
    Resolve { host: String, source: resolve::Error },
    /// Its servers did not answer.
    #[error("no address found for {host} within {} s", limit.as_secs_f32())]
    ResolveTimeout { host: String, limit: Duration },
    /// Nobody answered.
    #[error("no answer from {to} within {} s", limit.as_secs_f32())]
    DialTimeout { to: SocketAddr, limit: Duration },
    /// The peer accepted the connection, and no more.
    #[error("{to} did not finish the TLS handshake within {} s", limit.as_secs_f32())]
    HandshakeTimeout { to: SocketAddr, limit: Duration },
    /// Sockets for the clients of a listener.
    #[error("clients can't be taken in")]
    Entrance(#[source] netns::Error),
    /// Sockets and programs for a namespace.
    #[error("the TLS agent can't work in the network namespace")]
    Namespace(#[source] netns::Error),
    /// The program's own firewall, most likely.
    #[error(
        "the connection from the program to the agent was not made within {} s: the firewall or the IPAddressDeny= of the \
         service must let it reach {net} and ::1",
        limit.as_secs_f32(),
        net = ssa_common::limits::LOOPBACK_NETWORK
    )]
    Leg { limit: Duration },
    /// The kernel or the machine.
    #[error("the TLS agent failed")]
    Kernel(#[from] kernel::Error),
    /// Files of the program's, from a slow file system; or the agent lacks descriptors.
    #[error("the certificates that the program has named could not be read within {} s", limit.as_secs_f32())]
    ReadTimeout { limit: Duration },
    /// The administrator's limits.
    #[error(transparent)]
    Limit(#[from] limits::Met),
    /// The policy depends on the executable of an application that has ended, or become another user.
    #[error("the policy goes by the application's executable, which can't be told any more")]
    Executable(#[source] caller::Error),
    /// The administrator.
    #[error("the TLS agent ends")]
    Stopping,
    /// The administrator has changed the rules.
    #[error("the rule by which this would be TLS is no longer there")]
    NoRule,
    /// The peer, or the program's settings.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

impl Error {
    /// What the application's `connect` fails with. Exhaustive on purpose. A held SYN can't end with
    /// any other errno (docs/adr/0001-hold-the-syn.md).
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Dial { source, .. } => match source.raw_os_error() {
                Some(libc::ECONNREFUSED) => Errno::ConnectionRefused,
                Some(libc::ENETUNREACH | libc::ENETDOWN) => Errno::NetworkUnreachable,
                Some(_) | None => Errno::HostUnreachable,
            },
            Self::DialAll { errno, .. } => *errno,
            Self::DialTimeout { .. } | Self::HandshakeTimeout { .. } | Self::ReadTimeout { .. } => {
                Errno::HostUnreachable
            }
            Self::Resolve { .. } | Self::ResolveTimeout { .. } => Errno::HostUnreachable,
            Self::Entrance(_)
            | Self::Namespace(_)
            | Self::Leg { .. }
            | Self::Kernel(_)
            | Self::Stopping
            | Self::NoRule
            | Self::Limit(_) => Errno::HostUnreachable,
            Self::Executable(_) | Self::Tls(_) => Errno::Protocol,
        }
    }

    /// What failed, in a word: for metrics and logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Dial { .. } | Self::DialAll { .. } => "dial",
            Self::DialTimeout { .. } => "dial_timeout",
            Self::Resolve { .. } | Self::ResolveTimeout { .. } => "resolve",
            Self::HandshakeTimeout { .. } => "handshake_timeout",
            Self::ReadTimeout { .. } => "read_timeout",
            Self::Leg { .. } => "leg",
            Self::Entrance(_) | Self::Namespace(_) | Self::Kernel(_) => "kernel",
            Self::Executable(_) => "policy",
            Self::Limit(_) => "limit",
            Self::Stopping => "stopping",
            Self::NoRule => "no_rule",
            Self::Tls(tls::Error::Revocation(_)) => "revocation",
            Self::Tls(_) => "tls",
        }
    }

    /// The whole story in one line, at most `limit` bytes, for `TLS_ERROR`.
    pub(crate) fn text(&self, limit: usize) -> String {
        let mut text = chain(self);
        // One line of text without a NUL, whatever a peer has put into its certificate.
        text = text.replace(|letter: char| letter.is_control(), " ");
        while text.len() > limit {
            text.pop();
        }
        text
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_network_keep_their_errno() {
        let to = "127.0.0.1:1".parse().unwrap();
        for (number, errno) in [
            (libc::ECONNREFUSED, Errno::ConnectionRefused),
            (libc::EHOSTUNREACH, Errno::HostUnreachable),
            (libc::ENETUNREACH, Errno::NetworkUnreachable),
            (libc::ETIMEDOUT, Errno::HostUnreachable),
            (libc::EACCES, Errno::HostUnreachable),
        ] {
            let error = Error::Dial { to, source: io::Error::from_raw_os_error(number) };
            assert_eq!(error.errno(), errno, "{number}");
        }
    }

    #[test]
    fn text_has_the_causes_and_fits() {
        let to = "127.0.0.1:1".parse().unwrap();
        let error = Error::Dial { to, source: io::Error::from_raw_os_error(libc::ECONNREFUSED) };
        assert_eq!(error.text(255), "connecting to 127.0.0.1:1 failed: Connection refused (os error 111)");
        assert_eq!(error.text(10), "connecting");
    }
}
