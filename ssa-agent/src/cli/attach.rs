//! `ssa-agent attach`, `detach` and `list`: the cgroups that a running agent serves.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    cgroup,
    control::{self, Answer, Command},
    services::Shown,
    uncaptured::Why,
};

/// Let a running agent serve one more cgroup
///
/// Programs in it, and below it, have TLS sockets from now on; sockets that they have made before do not. It stays
/// attached until `ssa-agent detach`, or until the agent ends in order; an agent of the same name that is started after a
/// crash takes it up again.
#[derive(clap::Args)]
pub(crate) struct AttachArgs {
    /// The cgroup, as a path of the file system or below the cgroup2 mount
    cgroup: PathBuf,
    #[command(flatten)]
    agent: super::AgentArgs,
}

/// Let a running agent serve a cgroup no longer
///
/// Its connections are reset. Then this waits until its programs have closed their TLS sockets: one that stays open must
/// not become a plain socket.
#[derive(clap::Args)]
pub(crate) struct DetachArgs {
    /// The cgroup, as a path of the file system or below the cgroup2 mount
    #[arg(required_unless_present = "all")]
    cgroup: Option<PathBuf>,
    /// All that are attached, one after the other
    #[arg(long, conflicts_with = "cgroup")]
    all: bool,
    #[command(flatten)]
    agent: super::AgentArgs,
}

/// List the cgroups that a running agent serves
#[derive(clap::Args)]
pub(crate) struct ListArgs {
    /// Print JSON instead
    #[arg(long)]
    json: bool,
    /// List the TCP sockets of their programs that can't speak TLS instead: those that were made before the service was
    /// attached, or in another cgroup
    #[arg(long)]
    uncaptured: bool,
    #[command(flatten)]
    agent: super::AgentArgs,
}

pub(crate) fn attach(args: &AttachArgs) -> Result<ExitCode> {
    let cgroup = existing(&args.cgroup)?;
    control::ask(&args.agent.name()?, Command::Attach { cgroup })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn detach(args: &DetachArgs) -> Result<ExitCode> {
    let name = args.agent.name()?;
    let cgroups = match &args.cgroup {
        Some(cgroup) => vec![cgroup::resolve(cgroup)?],
        None => listed(&name)?.into_iter().map(|service| service.cgroup).collect(),
    };
    for cgroup in cgroups {
        control::ask(&name, Command::Detach { cgroup })?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(args: &ListArgs) -> Result<ExitCode> {
    let name = args.agent.name()?;
    if args.uncaptured {
        return uncaptured(&name, args.json);
    }
    let services = listed(&name)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&services)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:>8}  CGROUP", "SOCKETS");
    for service in services {
        let removed = if service.removed { " (removed)" } else { "" };
        println!("{:>8}  {}{removed}", service.sockets, service.cgroup.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn uncaptured(agent: &str, json: bool) -> Result<ExitCode> {
    let Answer::Uncaptured(sockets) = control::ask(agent, Command::Uncaptured)? else {
        bail!("the agent speaks of something else");
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&sockets)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:>7}  {:<9}  {:<40} {:<40} SERVICE", "PID", "MADE", "LOCAL", "PEER");
    for one in sockets {
        let made = match one.why {
            Why::Before => "before",
            Why::Elsewhere => "elsewhere",
        };
        let peer =
            one.peer.map_or_else(|| if one.listens { "listens" } else { "" }.to_owned(), |peer| peer.to_string());
        println!("{:>7}  {made:<9}  {:<40} {peer:<40} {}", one.pid, one.local.to_string(), one.service);
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(agent: &str) -> Result<Vec<Shown>> {
    let Answer::Services(services) = control::ask(agent, Command::List)? else {
        bail!("the agent speaks of something else");
    };
    Ok(services)
}

fn existing(path: &std::path::Path) -> Result<PathBuf> {
    let path = cgroup::resolve(path)?;
    path.canonicalize().with_context(|| format!("there is no cgroup {}", path.display()))
}
