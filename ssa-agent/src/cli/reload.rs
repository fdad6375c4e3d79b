//! `ssa-agent reload`: puts a changed configuration in force.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::control::{
    client::ask,
    protocol::{Answer, Command},
};

/// Let a running agent read its configuration again
///
/// New connections go by the new policy; open ones are left alone. If the file is bad, the policy in
/// force stays, and this ends with an error. SIGHUP to the agent does the same, and logs the error.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    agent: super::args::AgentArgs,
}

/// Runs `ssa-agent reload`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Answer::Reloaded { generation } = ask(&args.agent.name()?, Command::Reload)? else {
        bail!("the agent speaks of something else");
    };
    println!("the new policy is in force (number {generation} since the start)");
    Ok(ExitCode::SUCCESS)
}
