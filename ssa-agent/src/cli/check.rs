//! `ssa-agent check`: explains a configuration before it is in force.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};

use ssa_common::rule::Traffic;

use crate::policy::{Application, Config, File, Pods, Policy};

/// Check a configuration, and print the policy that it makes
///
/// Reads the file and the certificates and keys that it names, and ends with an error that says where something is
/// wrong. Otherwise prints the policy of the machine with all its defaults, or with --explain that which the file makes
/// for a running application, and the profiles that it comes from. With --to or --listen it says what the file makes of
/// a socket of that application that sets no options of TLS, and by which rule. It asks no agent: whether one serves the
/// application, and what is in force for it, is what `ssa-agent explain` says. Changes nothing.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: super::args::ConfigArgs,
    /// Explain the policy of this running process
    #[arg(long, value_name = "PID")]
    explain: Option<u32>,
    /// Explain what becomes of a connection of the process to this address
    #[arg(long, value_name = "ADDRESS:PORT", requires = "explain", conflicts_with = "listen")]
    to: Option<SocketAddr>,
    /// Explain what becomes of clients of the process where it listens
    #[arg(long, value_name = "ADDRESS:PORT", requires = "explain")]
    listen: Option<SocketAddr>,
    /// With --to: by UDP, not TCP
    #[arg(long, requires = "to")]
    udp: bool,
}

/// Explains the rules for a socket; returns the policy that is in force for it then.
fn explain(args: &Args, file: &File, application: &Application, profiles: &[usize]) -> Option<Policy> {
    let (at, kind) = match (args.to, args.listen) {
        (Some(at), _) => (at, if args.udp { Traffic::OUT_UDP } else { Traffic::OUT_TCP }),
        (None, Some(at)) => (at, Traffic::IN_TCP),
        (None, None) => return None,
    };
    let Some(rules) = file.rules_of(&application.cgroup, &Pods::default()) else {
        println!("# rules for pods: only the agent on the node knows the labels of this pod");
        return None;
    };
    let Some(index) = file.ruling(&rules, kind, at) else {
        println!("# {at}: no rule is for it; the socket is left alone");
        return None;
    };
    let rule = &file.rules()[index];
    let name = rule.name.get_ref();
    println!("# {at}: rule {name}: {}", rule.outcome(kind));
    rule.mode().is_tls().then(|| file.policy_by_rule(profiles, rule))
}

/// Runs `ssa-agent check`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let config: Config = args.config.config();
    let file = config.read()?;
    file.load_all()?;
    println!("# {}: good", config.name());
    let mut profiles = Vec::new();
    let mut by_rule = None;
    if let Some(pid) = args.explain {
        let application = Application::of_process(pid).with_context(|| format!("process {pid}"))?;
        let unknown = PathBuf::from("?");
        let executable = application.executable.as_ref().unwrap_or(&unknown);
        println!(
            "# process {pid}: {}, user {}, cgroup {}",
            executable.display(),
            application.uid,
            application.cgroup.display()
        );
        profiles = file.profiles_of(&application);
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
        println!("# This reads the file only, and asks no agent: `ssa-agent explain {pid}` says what is in force.");
        by_rule = explain(args, &file, &application, &profiles);
    }
    println!();
    print!("{}", toml::to_string(&by_rule.unwrap_or_else(|| file.policy(&profiles)))?);
    Ok(ExitCode::SUCCESS)
}
