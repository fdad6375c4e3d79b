//! `cargo xtask run`: from a fresh clone to a cgroup whose applications speak TLS.

use std::{ffi::OsString, os::unix::process::CommandExt as _, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{build, process::as_root};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The cgroup, as a path of the file system or below the cgroup2 mount
    #[arg(long, value_name = "PATH", default_value = "ssa")]
    cgroup: PathBuf,
    /// The configuration file [default: /etc/ssa/agent.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the agent logs (`ssa-agent run --help`)
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Run this command in the cgroup, and end with it and its exit status
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Sets up, builds, and becomes the agent.
pub(crate) fn run(args: &Args) -> Result<()> {
    let agent = build::run()?;
    let mut command = as_root(agent);
    command.arg("run").arg("--cgroup").arg(&args.cgroup);
    if let Some(log) = &args.log {
        command.arg("--log").arg(log);
    }
    if let Some(config) = &args.config {
        command.arg("--config").arg(config);
    }
    if args.command.is_empty() {
        command.arg("--prove");
    } else {
        command.arg("--").args(&args.command);
    }
    Err(command.exec()).context("starting the agent")
}
