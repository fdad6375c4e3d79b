//! Settings of applications on their sockets, and their result under a policy.

mod error;
mod settings;
mod store;
mod transfer;
mod upload;

pub(crate) use self::{error::Error, settings::ClientSettings, store::Options, transfer::TransferredText};
