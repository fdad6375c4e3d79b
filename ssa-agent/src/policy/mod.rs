//! What the administrator wrote: pure data, without a kernel and without a running agent.

mod application;
mod effective;
mod file;
mod net;
mod pod;
mod policy;
mod profile;
mod refinement;
mod row;
mod rule;
mod rule_tables;
mod schema;
mod section;
mod sections;
mod selector;
mod value;

pub(crate) use self::{
    application::Application,
    effective::{Effective, LoadError, stamps},
    file::{Config, File},
    pod::{Pod, Pods, is_pod},
    policy::Policy,
    profile::Profile,
    row::{loosen, row},
    rule::{Direction, Mode, NameError, Rule, StartTls},
    rule_tables::RuleMatch,
    schema::schema,
    sections::{FetchFrom, Limits, Revocation},
    selector::Selector,
    value::UserGroup,
};

#[cfg(test)]
pub(crate) use self::value::Version;
