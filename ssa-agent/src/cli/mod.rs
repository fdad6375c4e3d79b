//! The command line: one file per subcommand, and the exit status.

mod check;
mod doctor;
mod exec;
mod probe;
mod reload;
mod run;

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing::Level;
use tracing_subscriber::{EnvFilter, filter::Directive};

use crate::policy::file::Config;

/// Speaks TLS for the programs of a cgroup: they open ordinary sockets, set options at the level
/// IPPROTO_TLS, and connect.
#[derive(Parser)]
#[command(name = "ssa-agent", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Exec(exec::Args),
    Check(check::Args),
    Reload(reload::Args),
    Doctor(doctor::Args),
    #[command(hide = true)]
    Probe(probe::Args),
}

/// Which configuration.
#[derive(clap::Args, Clone, Debug)]
struct ConfigArgs {
    /// The configuration file [default: /etc/ssa/agent.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn config(&self) -> Config {
        self.config.clone().map_or(Config::Default, Config::File)
    }
}

/// Parses the arguments, runs the subcommand, and says in one line what went wrong.
pub(crate) fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(args) => run::run(args),
        Command::Exec(args) => exec::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Doctor(args) => doctor::run(args),
        Command::Probe(args) => probe::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("ssa-agent: {error:#}");
        ExitCode::FAILURE
    })
}

/// Logs to standard error what `filter` lets through.
fn start_logging(filter: &str) -> anyhow::Result<()> {
    let mut filter = EnvFilter::builder().with_default_directive(Directive::from(Level::INFO)).parse(filter)?;
    // They tell of every bad line of a file that programs bring.
    for target in ["hickory_resolver=error", "hickory_net=error", "hickory_proto=error", "resolv_conf=error"] {
        filter = filter.add_directive(target.parse()?);
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
