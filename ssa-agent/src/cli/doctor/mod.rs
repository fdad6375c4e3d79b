//! `ssa-agent doctor`: whether the agent will run on this machine.

pub(crate) mod checks;
pub(crate) mod command;
