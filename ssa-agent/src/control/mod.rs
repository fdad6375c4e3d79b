//! The control socket: what an administrator asks a running agent. docs/control.md has the protocol.

pub(crate) mod client;
pub(crate) mod protocol;
pub(crate) mod server;
