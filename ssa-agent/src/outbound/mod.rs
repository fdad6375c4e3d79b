//! Connections that applications connect, from a held SYN to the end of a relay.
//!
//! - [`attempts`]: connects of sockets, by the events about them; [`connection`]: one connect as one function;
//! - [`target`]: the peer that it means; [`secure`]: from a decision to a verified peer; [`hold`]: the obligation to
//!   answer.

mod attempts;
mod connection;
mod hold;
mod outbound;
mod passthrough;
mod secure;
mod starttls;
mod target;

pub(crate) use self::{attempts::Attempts, outbound::Outbound};
