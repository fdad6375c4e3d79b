//! Connections and failures as the control socket shows them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use ssa_common::socket::Caller;

use crate::policy::Direction;

/// Labels that tell a connection from others, in the log and in tables.
pub(crate) struct ConnectionLabels<'a> {
    /// `TLS_ID` of the application's socket; zero for a client that has none yet.
    pub(crate) id: u64,
    /// Direction in which it is made: out for `connect`, in for a listener's client.
    pub(crate) direction: Direction,
    /// Process that has connected, or has made the listener.
    pub(crate) caller: &'a Caller,
    /// Path of the attached cgroup; empty if it is gone.
    pub(crate) service: String,
    /// Server name that the peer has to prove; for a listener's client, the name that it asked for.
    pub(crate) name: &'a str,
    /// Name of the rule by which it is TLS; none if the application has asked for it.
    pub(crate) rule: Option<&'a str>,
    /// Address of the peer, where it is known beside its connection.
    pub(crate) peer: Option<SocketAddr>,
}

/// An open connection as `ssa-agent connections` and the control socket show it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ConnectionInfo {
    /// `TLS_ID` of the application's socket.
    pub(crate) id: u64,
    /// Direction in which it was made: out for `connect`, in for a listener's client.
    pub(crate) direction: Direction,
    /// Path of the attached cgroup; empty if it is gone.
    pub(crate) service: String,
    /// Id of the process that has connected, or has made the listener.
    pub(crate) pid: u32,
    /// Real user id of that process.
    pub(crate) uid: u32,
    /// Address of the peer leg on this machine.
    pub(crate) local: Option<SocketAddr>,
    /// Address of the peer.
    pub(crate) peer: Option<SocketAddr>,
    /// Server name that the peer had to prove; for a listener's client, the name that it asked for.
    pub(crate) name: String,
    /// Name of the rule by which it is TLS; none if the application has asked for it.
    #[serde(default)]
    pub(crate) rule: Option<String>,
    /// Version of TLS as text, such as `TLS 1.3`.
    pub(crate) version: String,
    /// Name that OpenSSL has for the cipher suite.
    pub(crate) cipher: String,
    /// Resumption of an earlier session (RFC 8446, section 2.2); false for a full handshake.
    pub(crate) resumed: bool,
    /// Reason why its peer has become revoked, since it was made; none if it has not.
    #[serde(default)]
    pub(crate) revoked: Option<String>,
    /// Time of the finished handshake, in seconds since 1970.
    pub(crate) since: u64,
    /// Age in seconds, since the finished handshake.
    pub(crate) age_seconds: f64,
    /// Bytes from the application to the peer.
    pub(crate) bytes_up: u64,
    /// Bytes from the peer to the application.
    pub(crate) bytes_down: u64,
}

/// A connection that was not made, or did not end in order, as the control socket shows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Failure {
    /// Time of the failure, in seconds since 1970.
    pub(crate) at: u64,
    /// `TLS_ID` of the application's socket; zero for a client that got none.
    pub(crate) id: u64,
    /// Direction in which it was made: out for `connect`, in for a listener's client.
    pub(crate) direction: Direction,
    /// Path of the attached cgroup; empty if it is gone.
    pub(crate) service: String,
    /// Id of the process that has connected, or has made the listener.
    pub(crate) pid: u32,
    /// Real user id of that process.
    pub(crate) uid: u32,
    /// Address of the peer.
    pub(crate) peer: Option<SocketAddr>,
    /// Server name that the peer had to prove; for a listener's client, the name that it asked for.
    pub(crate) name: String,
    /// Name of the rule by which it would be TLS; none if the application has asked for it.
    #[serde(default)]
    pub(crate) rule: Option<String>,
    /// Text that `TLS_ERROR` has.
    pub(crate) error: String,
}
