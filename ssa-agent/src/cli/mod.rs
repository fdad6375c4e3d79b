//! The command line: one file per subcommand, and the exit status.

mod exec;
mod probe;
mod run;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing::Level;
use tracing_subscriber::{EnvFilter, filter::Directive};

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
    #[command(hide = true)]
    Probe(probe::Args),
}

/// Parses the arguments, runs the subcommand, and says in one line what went wrong.
pub(crate) fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(args) => run::run(args),
        Command::Exec(args) => exec::run(&args),
        Command::Probe(args) => probe::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("ssa-agent: {error:#}");
        ExitCode::FAILURE
    })
}

/// Logs to standard error what `filter` lets through.
fn start_logging(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().with_default_directive(Directive::from(Level::INFO)).parse(filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
