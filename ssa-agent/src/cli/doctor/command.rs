//! `ssa-agent doctor`: reports whether the agent will run on this machine.

use std::{fs, io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::checks::{self as doctor, Check, Outcome, Trial};
use crate::{
    app::{self, RunOptions},
    cli::selftest,
    kernel,
    policy::Config,
    sys::cgroup,
};

/// Say whether the agent will run here, and what is missing
///
/// Looks at the kernel, its settings and this process's rights, loads each eBPF program, and then serves a cgroup of
/// its own for a moment: a plain socket must fetch over TLS, and refusals must arrive at once (rules of a firewall that
/// drop packets on the loopback interface show here). Leaves nothing behind. The exit status is 0 if the agent will
/// run, and 1 if not.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
    /// Look only; serve nothing
    #[arg(long)]
    no_trial: bool,
    /// Folder that maps and programs are pinned in
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// Print each program and the instructions that the verifier followed
    #[arg(long, hide = true)]
    programs: bool,
}

/// Runs `ssa-agent doctor`. The exit status is 1 if the agent will not run.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    if args.programs {
        return programs();
    }
    let mut checks = doctor::checks(&args.bpffs);
    let fit = checks.iter().all(|check| check.outcome != Outcome::Failed);
    if fit && !args.no_trial {
        crate::cli::logging::start_logging("off")?;
        checks.extend(trial(&args)?);
    }
    let runs = checks.iter().all(|check| check.outcome != Outcome::Failed);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "version": 1, "runs": runs, "checks": checks }))?);
    } else {
        let colours = std::io::stdout().is_terminal();
        checks.iter().for_each(|check| print(check, colours));
        println!("\n{}", if runs { "The agent runs here." } else { "The agent does not run here." });
    }
    Ok(if runs { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(check: &Check, colours: bool) {
    let (mark, colour) = match check.outcome {
        Outcome::Good => ("\u{2713}", 32),
        Outcome::Warning => ("!", 33),
        Outcome::Failed => ("\u{2717}", 31),
    };
    let mark = if colours { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark.to_owned() };
    println!("{mark} {}: {}", check.name, check.found);
    if check.outcome != Outcome::Good {
        println!("    why:  {}", check.why);
        println!("    do:   {}", check.advice);
    }
}

/// Serves a cgroup that exists for this moment only, and makes the checks of it.
fn trial(args: &Args) -> Result<Vec<Check>> {
    let path = cgroup::resolve(format!("ssa-doctor-{}", std::process::id()).as_ref())?;
    let made = cgroup::create(&path);
    let mut checks = Vec::new();
    if made.is_ok() {
        let name = crate::cli::args::agent_name(&path)?;
        let (bpffs, cgroups) = (args.bpffs.clone(), vec![path.clone()]);
        let options = RunOptions {
            name,
            cgroups,
            made: Vec::new(),
            bpffs,
            config: Config::None,
            leave_guards: false,
            plaintext: true,
            take_over: false,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (mut fetched, mut refused) = (None, None);
        let served = runtime.block_on(app::run(options, async || {
            fetched = Some(selftest::run(&path).await.map(drop));
            refused = Some(selftest::refusals(&path).await);
            Ok(())
        }));
        runtime.shutdown_background();
        // Absent only if it was in use, which can't be.
        let _gone = fs::remove_dir(&path);
        checks.push(doctor::trial(Trial::Serving, served.map(drop)));
        checks.extend(fetched.map(|done| doctor::trial(Trial::Fetching, done)));
        checks.extend(refused.map(|done| doctor::trial(Trial::Refusals, done)));
    } else {
        checks.push(doctor::trial(Trial::Serving, made.map(drop).context("making a cgroup to try it with")));
    }
    Ok(checks)
}

fn programs() -> Result<ExitCode> {
    let trial = kernel::trial();
    for (name, result) in trial.programs {
        println!("{name} {}", result.with_context(|| name.clone())?);
    }
    for (name, instructions) in trial.socket_call.into_iter().flatten() {
        println!("{name} {instructions}");
    }
    Ok(ExitCode::SUCCESS)
}
