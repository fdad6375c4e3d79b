//! The command line: one file per subcommand, and the exit status.

use super::{attach, check, doctor, exec, generate, probe, reload, run, status, upgrade};
use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tracing::Level;
use tracing_subscriber::{EnvFilter, filter::Directive, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::policy::file::Config;

/// Speaks TLS for the programs of a cgroup: they open ordinary sockets, set options at the level
/// IPPROTO_TLS, and connect.
#[derive(Parser)]
#[command(name = "ssa-agent", version)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Exec(exec::Args),
    Check(check::Args),
    Attach(attach::AttachArgs),
    Detach(attach::DetachArgs),
    List(attach::ListArgs),
    Status(status::StatusArgs),
    Connections(status::ConnectionsArgs),
    Reload(reload::Args),
    Upgrade(upgrade::Args),
    Doctor(doctor::command::Args),
    Completions(generate::CompletionsArgs),
    #[command(hide = true)]
    Manual(generate::ManualArgs),
    #[command(hide = true)]
    Probe(probe::Args),
}

/// Which configuration.
#[derive(clap::Args, Clone, Debug)]
pub(in crate::cli) struct ConfigArgs {
    /// The configuration file [default: /etc/ssa/agent.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    pub(in crate::cli) fn config(&self) -> Config {
        self.config.clone().map_or(Config::Default, Config::File)
    }
}

/// Which running agent.
#[derive(clap::Args, Clone, Debug)]
pub(in crate::cli) struct AgentArgs {
    /// The agent that was started with this cgroup first [default: the one of the machine, started without any, or the only
    /// one that runs]
    #[arg(long = "agent", alias = "cgroup", value_name = "CGROUP")]
    agent: Option<PathBuf>,
}

impl AgentArgs {
    /// Its name.
    pub(in crate::cli) fn name(&self) -> anyhow::Result<String> {
        if let Some(cgroup) = &self.agent {
            return agent_name(&crate::sys::cgroup::resolve(cgroup)?);
        }
        let mut names = crate::control::server::names();
        match &names[..] {
            _ if names.iter().any(|name| name == MACHINE) => Ok(MACHINE.to_owned()),
            [_only] => Ok(names.remove(0)),
            [] => anyhow::bail!("no agent runs (`ssa-agent run` starts one)"),
            _ => anyhow::bail!("several agents run: say with --agent which of their cgroups you mean"),
        }
    }
}

/// The name of the agent that is started without a cgroup.
pub(in crate::cli) const MACHINE: &str = "machine";

/// The name of the agent that is started with this cgroup first: its inode.
pub(in crate::cli) fn agent_name(cgroup: &std::path::Path) -> anyhow::Result<String> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(cgroup).with_context(|| format!("cgroup {}", cgroup.display()))?;
    Ok(metadata.ino().to_string())
}

/// Parses the arguments, runs the subcommand, and says in one line what went wrong.
pub(crate) fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(args) => run::run(args),
        Command::Exec(args) => exec::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Attach(args) => attach::attach(&args),
        Command::Detach(args) => attach::detach(&args),
        Command::List(args) => attach::list(&args),
        Command::Status(args) => status::status(&args),
        Command::Connections(args) => status::connections(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Doctor(args) => doctor::command::run(args),
        Command::Completions(args) => Ok(generate::completions(&args)),
        Command::Manual(args) => generate::manual(&args),
        Command::Probe(args) => probe::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("ssa-agent: {error:#}");
        ExitCode::FAILURE
    })
}

/// Logs to standard error what `filter` lets through.
pub(in crate::cli) fn start_logging(filter: &str) -> anyhow::Result<()> {
    let mut filter = EnvFilter::builder().with_default_directive(Directive::from(Level::INFO)).parse(filter)?;
    // They tell of every bad line of a file that programs bring.
    for target in ["hickory_resolver=error", "hickory_net=error", "hickory_proto=error", "resolv_conf=error"] {
        filter = filter.add_directive(target.parse()?);
    }
    let registry = tracing_subscriber::registry().with(filter);
    if is_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal.with_field_prefix(Some("SSA".to_owned()))).init();
    } else {
        let ansi = std::io::stderr().is_terminal();
        registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi)).init();
    }
    Ok(())
}

/// Whether standard error goes to the journal (`JOURNAL_STREAM`, systemd.exec(5)): it takes fields as fields.
fn is_journal() -> bool {
    use std::os::fd::AsFd as _;
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let own = nix::sys::stat::fstat(std::io::stderr().as_fd());
    own.is_ok_and(|own| stream == format!("{}:{}", own.st_dev, own.st_ino))
}
