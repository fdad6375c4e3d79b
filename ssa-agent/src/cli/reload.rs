//! `ssa-agent reload`: puts a changed configuration in force.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};

use crate::{
    cgroup,
    control::{self, Answer, Command},
};

/// Let a running agent read its configuration again
///
/// New connections go by the new policy; open ones are left alone. If the file is bad, the policy in
/// force stays, and this ends with an error. SIGHUP to the agent does the same, and logs the error.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The cgroup that the agent serves, as a path of the file system or below the cgroup2 mount
    #[arg(long, value_name = "PATH", default_value = "ssa")]
    cgroup: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match control::ask(&cgroup::resolve(&args.cgroup)?, Command::Reload)? {
        Answer::Reloaded { generation } => println!("the new policy is in force (number {generation} since the start)"),
        Answer::Error(error) => bail!("{error}"),
    }
    Ok(ExitCode::SUCCESS)
}
