//! `cargo xtask test`: all tests, unit to system.

use std::env;

use anyhow::Result;

use crate::{
    process::{cargo, check},
    setup,
};

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// Builds in release mode: the system tests move much data. System tests need root, so that all
/// run through sudo unless this process is root.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    let mut build = cargo();
    check(build.args(["build", "--locked", "--release", "--package", "ssa-agent"]))?;
    let mut test = cargo();
    test.args(["test", "--locked", "--release", "--no-fail-fast"]);
    if !nix::unistd::geteuid().is_root() {
        let runner = format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", env::consts::ARCH.to_uppercase());
        test.env(runner, "sudo --preserve-env --");
    }
    if let Some(filter) = &args.filter {
        test.arg("--").arg(filter);
    }
    check(&mut test)
}
