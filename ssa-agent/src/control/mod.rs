//! Control socket: commands of an administrator to a running agent. docs/control.md has the protocol.

pub(crate) mod client;
pub(crate) mod protocol;
pub(crate) mod server;
