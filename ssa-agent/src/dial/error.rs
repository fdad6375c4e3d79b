//! Errors of peers that were not reached, below TLS.

use std::{io, net::SocketAddr, time::Duration};

use super::resolve;
use crate::{kernel::Errno, telemetry::error_chain};

/// Reason why a peer was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The peer's network, or the way there, has failed.
    #[error("connecting to {to} failed")]
    Dial {
        /// Address of the peer.
        to: SocketAddr,
        /// Error of connect(2), or of making the socket.
        source: io::Error,
    },
    /// No address of a name answers.
    #[error("no address of {host} answers: {tried}")]
    DialAll {
        /// Name that the application has set.
        host: String,
        /// Failure of each address, in words.
        tried: String,
        /// Errno of the last failure.
        errno: Errno,
    },
    /// The peer did not answer in time.
    #[error("no answer from {to} within {} s", limit.as_secs_f32())]
    DialTimeout {
        /// Address of the peer.
        to: SocketAddr,
        /// Time that connecting had.
        limit: Duration,
    },
    /// The name has no address.
    #[error("no address found for {host}")]
    Resolve {
        /// Name that the application has set.
        host: String,
        /// Failure of the resolver.
        source: resolve::Error,
    },
    /// The name's servers did not answer.
    #[error("no address found for {host} within {} s", limit.as_secs_f32())]
    ResolveTimeout {
        /// Name that the application has set.
        host: String,
        /// Time that resolving had.
        limit: Duration,
    },
}

impl Error {
    /// Errno of a held connect that failed with it.
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Dial { source, .. } => match source.raw_os_error() {
                Some(libc::ECONNREFUSED) => Errno::ConnectionRefused,
                Some(libc::ENETUNREACH | libc::ENETDOWN) => Errno::NetworkUnreachable,
                Some(_) | None => Errno::HostUnreachable,
            },
            Self::DialAll { errno, .. } => *errno,
            Self::DialTimeout { .. } | Self::Resolve { .. } | Self::ResolveTimeout { .. } => Errno::HostUnreachable,
        }
    }

    /// Reason in a word, for metrics and logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Dial { .. } | Self::DialAll { .. } => "dial",
            Self::DialTimeout { .. } => "dial_timeout",
            Self::Resolve { .. } | Self::ResolveTimeout { .. } => "resolve",
        }
    }

    /// Text of the error and its causes.
    pub(crate) fn text(&self) -> String {
        error_chain(self)
    }
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
}
