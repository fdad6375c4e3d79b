//! `ssa-agent upgrade`: a new process in the place of a running agent.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::control::{
    client::ask,
    protocol::{Answer, Command},
};

/// Let a running agent be replaced by its executable as it is now
///
/// The agent starts the executable that it was started from, with the same arguments. The new process takes over
/// listeners and new connections, of which none is refused; the old one finishes its open connections and ends, after
/// `finish_seconds` of \[control\] at the latest. Should the new one fail to start, the old one goes on. Where an agent
/// keeps its state in another form than the last, which the changelog says, it must be restarted instead.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    agent: super::args::AgentArgs,
}

/// Runs `ssa-agent upgrade`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Answer::Upgraded { pid, finishing } = ask(&args.agent.name()?, Command::Upgrade)? else {
        bail!("the agent speaks of something else");
    };
    println!("process {pid} serves; the one before it finishes {finishing} connections");
    Ok(ExitCode::SUCCESS)
}
