//! `ssa-agent status` and `connections`: state and connections of a running agent.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    connection::{ConnectionInfo, Failure},
    control::{
        client::ask,
        protocol::{Answer, Command},
    },
};

/// Show the state of a running agent: services, connections, counters
#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    /// Print JSON instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: super::args::AgentArgs,
}

/// List the open connections of a running agent, the oldest first
///
/// Each with its application, its peer, and what was negotiated. Connections that are still being set up are not
/// listed.
#[derive(clap::Args)]
pub(crate) struct ConnectionsArgs {
    /// Print JSON instead: one array
    #[arg(long)]
    json: bool,
    /// List the last connections that failed instead: those that were refused, with the reason, and those that were
    /// reset
    #[arg(long)]
    failed: bool,
    /// Print them again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    agent: super::args::AgentArgs,
}

/// Runs `ssa-agent status`.
pub(crate) fn status(args: &StatusArgs) -> Result<ExitCode> {
    let Answer::Status(status) = ask(&args.agent.name()?, Command::Status)? else {
        bail!("the agent speaks of something else");
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("ssa-agent {}, process {}, for {} s", status.version, status.pid, status.seconds);
    println!("{:>10}  services", status.services);
    println!("{:>10}  connections", status.connections);
    for (name, value) in &status.counters {
        println!("{value:>10}  {name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `ssa-agent connections`.
pub(crate) fn connections(args: &ConnectionsArgs) -> Result<ExitCode> {
    let name = args.agent.name()?;
    loop {
        let (open, failed) = if args.failed { (Vec::new(), failures(&name)?) } else { (open(&name)?, Vec::new()) };
        if args.watch && std::io::stdout().is_terminal() {
            print!("\x1b[H\x1b[2J");
        }
        match (args.failed, args.json) {
            (false, false) => print(&open),
            (false, true) => println!("{}", serde_json::to_string(&open)?),
            (true, false) => print_failures(&failed),
            (true, true) => println!("{}", serde_json::to_string(&failed)?),
        }
        std::io::stdout().flush()?;
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn open(agent: &str) -> Result<Vec<ConnectionInfo>> {
    let Answer::Connections(all) = ask(agent, Command::Connections)? else {
        bail!("the agent speaks of something else");
    };
    Ok(all)
}

fn failures(agent: &str) -> Result<Vec<Failure>> {
    let Answer::Failures(all) = ask(agent, Command::Failures)? else {
        bail!("the agent speaks of something else");
    };
    Ok(all)
}

fn print_failures(failures: &[Failure]) {
    println!("{:<9} {:<3} {:>7} {:>6} {:<40} {:<24} ERROR", "AGO", "DIR", "PID", "UID", "PEER", "NAME");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for one in failures {
        println!(
            "{:>8}s {:<3} {:>7} {:>6} {:<40} {:<24} {}",
            now.saturating_sub(one.at),
            one.direction.name(),
            one.pid,
            one.uid,
            one.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            one.name,
            one.error,
        );
    }
}

fn print(connections: &[ConnectionInfo]) {
    println!(
        "{:<3} {:>7} {:>6} {:<40} {:<24} {:<7} {:<28} {:<3} {:>8} {:>12} {:>12}  SERVICE",
        "DIR", "PID", "UID", "PEER", "NAME", "VERSION", "CIPHER", "RES", "AGE", "UP", "DOWN"
    );
    for one in connections {
        println!(
            "{:<3} {:>7} {:>6} {:<40} {:<24} {:<7} {:<28} {:<3} {:>7.0}s {:>12} {:>12}  {}",
            one.direction.name(),
            one.pid,
            one.uid,
            one.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            one.name,
            one.version,
            one.cipher,
            if one.resumed { "yes" } else { "no" },
            one.age_seconds,
            one.bytes_up,
            one.bytes_down,
            one.service,
        );
        if let Some(how) = &one.revoked {
            println!("    REVOKED: {how}");
        }
    }
}
