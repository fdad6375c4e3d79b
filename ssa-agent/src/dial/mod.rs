//! TCP connections to a peer as the application would make them: from its network namespace, in its cgroup, as its
//! user, with its options.

mod connect;
mod error;
mod resolve;
mod socket;
mod socket_options;

pub(crate) use self::{
    connect::{address, name},
    error::Error,
    resolve::{Families, Files, addresses},
    socket::{SocketSetup, dial},
    socket_options::{SocketOptions, option_updates},
};
