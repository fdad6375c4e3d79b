//! Connections and failures as people and machines are shown them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use ssa_common::socket::Caller;

use crate::policy::Direction;

/// What tells a connection from others, in the log and in tables.
pub(crate) struct ConnectionLabels<'a> {
    /// `TLS_ID` of the application's socket; zero for a client that has none yet.
    pub(crate) id: u64,
    /// Who has begun it.
    pub(crate) direction: Direction,
    /// Who has connected; who has made the listener.
    pub(crate) caller: &'a Caller,
    /// Path of the attached cgroup; empty if it is gone.
    pub(crate) service: String,
    /// Whom the peer has to prove to be; the name that a client asked for.
    pub(crate) name: &'a str,
    /// The rule by which it is TLS; none if the application has asked for it.
    pub(crate) rule: Option<&'a str>,
    /// Address of the peer, where it is known beside its connection.
    pub(crate) peer: Option<SocketAddr>,
}

/// An open connection as `ssa-agent connections` and the control socket show it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ConnectionInfo {
    /// `TLS_ID` of the application's socket.
    pub(crate) id: u64,
    /// Who has begun it.
    pub(crate) direction: Direction,
    /// The attached cgroup; empty if it is gone.
    pub(crate) service: String,
    /// The process that has connected, or has made the listener.
    pub(crate) pid: u32,
    /// Its real user.
    pub(crate) uid: u32,
    /// Address of the peer leg on this side.
    pub(crate) local: Option<SocketAddr>,
    /// Address of the peer.
    pub(crate) peer: Option<SocketAddr>,
    /// Whom the peer had to prove to be; the name that a client asked for.
    pub(crate) name: String,
    /// The rule by which it is TLS; none if the application has asked for it.
    #[serde(default)]
    pub(crate) rule: Option<String>,
    /// Version of TLS, for people.
    pub(crate) version: String,
    /// OpenSSL's name of the cipher suite.
    pub(crate) cipher: String,
    /// Whether a session was resumed.
    pub(crate) resumed: bool,
    /// When and by whom its peer was revoked, since it was made.
    #[serde(default)]
    pub(crate) revoked: Option<String>,
    /// Seconds since 1970 of the finished handshake.
    pub(crate) since: u64,
    /// Since the finished handshake.
    pub(crate) age_seconds: f64,
    /// Bytes from the application to the peer.
    pub(crate) bytes_up: u64,
    /// Bytes from the peer to the application.
    pub(crate) bytes_down: u64,
}

/// A connection that was not made, or did not end in order, as the control socket shows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Failure {
    /// Seconds since 1970.
    pub(crate) at: u64,
    /// `TLS_ID` of the application's socket; zero for a client that got none.
    pub(crate) id: u64,
    /// Who has begun it.
    pub(crate) direction: Direction,
    /// The attached cgroup; empty if it is gone.
    pub(crate) service: String,
    /// The process that has connected, or has made the listener.
    pub(crate) pid: u32,
    /// Its real user.
    pub(crate) uid: u32,
    /// Address of the peer.
    pub(crate) peer: Option<SocketAddr>,
    /// Whom the peer had to prove to be; the name that a client asked for.
    pub(crate) name: String,
    /// The rule by which it would be TLS; none if the application has asked for it.
    #[serde(default)]
    pub(crate) rule: Option<String>,
    /// What `TLS_ERROR` says.
    pub(crate) error: String,
}
