//! Attached cgroups: attaches and detaches them, follows pods, finds what can't be served.

mod attached;
pub(crate) mod pods;
mod services;
pub(crate) mod uncaptured;

pub(crate) use self::{
    attached::Attached,
    services::{ServiceInfo, Services},
};
