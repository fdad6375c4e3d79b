//! `cargo xtask build`: the agent in release mode; its build script builds the eBPF object.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    process::{cargo, check, target_dir},
    setup,
};

/// Builds the agent, and the applications that put it under load.
pub(crate) fn with_programs() -> Result<()> {
    let packages = ["--package", "ssa-agent", "--package", "ssa-tests", "--bins"];
    check(cargo().args(["build", "--locked", "--release"]).args(packages))
}

/// Builds the agent and returns its path.
pub(crate) fn run() -> Result<PathBuf> {
    setup::run(&setup::Args { tests: false })?;
    check(cargo().args(["build", "--locked", "--release", "--package", "ssa-agent"]))?;
    Ok(target_dir().join("release/ssa-agent"))
}
