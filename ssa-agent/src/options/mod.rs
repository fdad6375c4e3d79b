//! What applications have set on their sockets, and what it comes to under a policy.

mod error;
mod settings;
mod store;
mod transfer;
mod upload;

pub(crate) use self::{error::Error, settings::ClientSettings, store::Options, transfer::TransferredText};
