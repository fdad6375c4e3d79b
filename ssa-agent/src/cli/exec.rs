//! `ssa-agent exec`: runs a command inside an attached cgroup.

use std::{
    ffi::OsString,
    fs,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{kernel::Pins, sys::cgroup};

/// Run a command inside an attached cgroup
///
/// Its sockets speak TLS as their IPPROTO_TLS options and the rules say. While no agent runs, the guards that one has
/// left refuse what would be TLS. A cgroup that nobody serves is refused: its sockets would be plain. The command takes
/// this process's place, so its exit status is its own.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The cgroup, as a path of the file system or below the cgroup2 mount
    #[arg(long, value_name = "PATH", default_value = "ssa")]
    cgroup: PathBuf,
    /// Run it although nobody serves the cgroup: its sockets are PLAINTEXT then
    #[arg(long)]
    plaintext: bool,
    /// Folder that agents pin their maps in
    #[arg(long, value_name = "PATH", default_value = super::args::BPFFS)]
    bpffs: PathBuf,
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
    if !args.plaintext {
        super::cleanup::readable(&args.bpffs)?;
        ensure!(
            is_served(&args.bpffs, &path)?,
            "nobody serves {}: the command's sockets would be plain. `ssa-agent attach` lets a running agent serve it, \
             `ssa-agent run --cgroup {0}` starts one; --plaintext runs the command all the same",
            path.display()
        );
    }
    cgroup::enter(&path)?;
    let [executable, arguments @ ..] = &args.command[..] else { bail!("no command given") };
    let error = Command::new(executable).args(arguments).exec();
    Err(error).with_context(|| format!("running {}", executable.display()))
}

/// Looks for guards of an agent that hold for a cgroup; waits, at most 2 s, for a running agent that has not decided yet.
fn is_served(bpffs: &Path, cgroup: &Path) -> Result<bool> {
    const LIMIT: Duration = Duration::from_secs(2);
    let id = fs::metadata(cgroup)?.ino();
    let deadline = Instant::now() + LIMIT;
    loop {
        let all = Pins::all(bpffs);
        let decisions: Vec<_> =
            all.iter().filter(|pins| pins.guards() != 0).map(|pins| (pins, pins.cgroup(id))).collect();
        if decisions.iter().any(|(_pins, decision)| decision.is_some_and(|decision| decision.service != 0)) {
            return Ok(true);
        }
        let undecided = decisions.iter().any(|(pins, decision)| decision.is_none() && pins.is_in_use());
        if !undecided || Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(Duration::from_millis(10));
    }
}
