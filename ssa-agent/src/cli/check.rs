//! `ssa-agent check`: what a configuration says, before it is in force.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::policy::{file::Config, profile::Program};

/// Check a configuration, and print the policy that it makes
///
/// Reads the file and the certificates and keys that it names, and ends with an error that says where
/// something is wrong. Otherwise prints the policy of the machine with all its defaults, or with
/// --explain that of a running program and the profiles that it comes from. Changes nothing.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Explain the policy of this running process
    #[arg(long, value_name = "PID")]
    explain: Option<u32>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let config: Config = args.config.config();
    let file = config.read()?;
    file.load_all()?;
    println!("# {}: good", config.name());
    let mut profiles = Vec::new();
    if let Some(pid) = args.explain {
        let program = Program::of_process(pid).with_context(|| format!("process {pid}"))?;
        let unknown = PathBuf::from("?");
        let executable = program.executable.as_ref().unwrap_or(&unknown);
        println!(
            "# process {pid}: {}, user {}, cgroup {}",
            executable.display(),
            program.uid,
            program.cgroup.display()
        );
        profiles = file.profiles_of(&program);
        if profiles.is_empty() {
            println!("# no profile is for it: the machine's policy");
        }
        for index in &profiles {
            let (name, asks) = file.describe(*index);
            println!("# profile {name}, because {asks}");
        }
        if profiles.len() > 1 {
            println!("# (the later, the more specific: its keys win)");
        }
    }
    println!();
    print!("{}", toml::to_string(&file.policy(&profiles))?);
    Ok(ExitCode::SUCCESS)
}
