//! Command line: one file per subcommand, and the exit status.

pub(crate) mod args;
pub(crate) mod attach;
pub(crate) mod check;
mod cleanup;
pub(crate) mod doctor;
pub(crate) mod exec;
mod explain;
pub(crate) mod generate;
pub(crate) mod logging;
pub(crate) mod main;
pub(crate) mod probe;
pub(crate) mod reload;
pub(crate) mod run;
pub(crate) mod selftest;
pub(crate) mod status;
pub(crate) mod upgrade;
