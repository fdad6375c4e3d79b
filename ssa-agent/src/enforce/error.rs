//! Errors of connections that the administrator's configuration does not allow.

use super::limits::LimitExceeded;
use crate::{
    kernel,
    policy::{LoadError, NameError},
    sys::as_caller,
    tls,
};

/// Reason why the configuration in force does not allow a connection, or can't decide on it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The policy depends on the executable of an application that has ended, or become another user.
    #[error("the policy goes by the application's executable, which can't be told any more")]
    ApplicationChanged(#[source] as_caller::Error),
    /// A limit of `[limits]` is reached.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// A policy's files can't be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map of the hooks is full.
    #[error(transparent)]
    Map(#[from] kernel::Error),
    /// No cgroup file system of version 2 is mounted.
    #[error("{0:#}")]
    Mount(anyhow::Error),
    /// The rule's name can't be told from what was resolved.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The host name can't be verified.
    #[error(transparent)]
    Invalid(#[from] tls::Invalid),
    /// The rules have changed since the hooks have held the connect.
    #[error("the rule by which this would be TLS is no longer there")]
    NoRule,
    /// No service has the application: it was detached, or its cgroup is none that is served.
    #[error("the application's cgroup is served by no agent (any more)")]
    NotServed,
    /// A rule denies it.
    #[error("the rule {0} denies it")]
    Denied(String),
    /// The application's cgroup can't be decided on.
    #[error(
        "nothing is known of the application's cgroup: it is gone, or of a pod that the API server has not told of"
    )]
    Undecided,
    /// A reload came between two looks at the policy.
    #[error("the policy has changed to one that asks for the application's executable; try again")]
    PolicyChanging,
    /// A reload came between two looks at the rules.
    #[error("the rules are just changing; try again")]
    RulesChanging,
}
