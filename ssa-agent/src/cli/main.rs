//! Command line: one file per subcommand, and the exit status.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use super::{attach, check, cleanup, doctor, exec, explain, generate, probe, reload, run, status, upgrade};

/// Speaks TLS for the applications of a cgroup: they open ordinary sockets, set options at the level
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
    Explain(explain::Args),
    Attach(attach::AttachArgs),
    Detach(attach::DetachArgs),
    Cleanup(cleanup::Args),
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
    Schema(generate::SchemaArgs),
    #[command(hide = true)]
    Probe(probe::Args),
}

/// Parses the arguments, runs the subcommand, and says in one line what went wrong.
pub(crate) fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(args) => run::run(args),
        Command::Exec(args) => exec::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Attach(args) => attach::attach(&args),
        Command::Detach(args) => attach::detach(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::List(args) => attach::list(&args),
        Command::Status(args) => status::status(&args),
        Command::Connections(args) => status::connections(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Doctor(args) => doctor::command::run(args),
        Command::Completions(args) => Ok(generate::completions(&args, Args::command())),
        Command::Manual(args) => generate::manual(&args, Args::command()),
        Command::Schema(args) => generate::print_schema(&args),
        Command::Probe(args) => probe::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("ssa-agent: {error:#}");
        ExitCode::FAILURE
    })
}
