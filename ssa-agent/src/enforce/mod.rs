//! Configuration of the administrator in force: in the hooks' maps, and for each connection.

mod decision;
mod error;
mod explain;
mod learned_names;
mod limits;
mod policies;
mod rules;

pub(crate) use self::{
    decision::{Decision, DecisionLabels, Enforcement, Question, Settling},
    error::Error,
    explain::{Asked, Explanation},
    learned_names::{Learned, LearnedNames},
    limits::{Limits, Permit},
    policies::Policies,
    rules::{Rules, Standing},
};

#[cfg(any(fuzzing, test))]
pub(crate) use self::learned_names::fuzz_names;
