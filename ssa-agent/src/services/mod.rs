//! Attached cgroups: who is served, which pods there are, what can't be served.

mod attached;
pub(crate) mod pods;
mod services;
pub(crate) mod uncaptured;

pub(crate) use self::{
    attached::{Attached, AttachedBy},
    services::{Commands, ServiceInfo, Services},
};
