//! `ssa-agent exec`: runs a command inside an attached cgroup.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::sys::cgroup;

/// Run a command inside an attached cgroup
///
/// Its sockets speak TLS as their IPPROTO_TLS options say, if an agent serves the cgroup (`ssa-agent run`). The command
/// takes this process's place, so its exit status is its own.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The cgroup, as a path of the file system or below the cgroup2 mount
    #[arg(long, value_name = "PATH", default_value = "ssa")]
    cgroup: PathBuf,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs `ssa-agent exec`. Returns on an error only.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = cgroup::resolve(&args.cgroup)?;
    if !path.is_dir() {
        bail!("there is no cgroup {}; `ssa-agent run --cgroup {0}` makes it", args.cgroup.display());
    }
    cgroup::enter(&path)?;
    let [executable, arguments @ ..] = &args.command[..] else { bail!("no command given") };
    let error = Command::new(executable).args(arguments).exec();
    Err(error).with_context(|| format!("running {}", executable.display()))
}
