//! `ssa-agent completions`, `manual` and `schema`: files that a package installs beside the executable.

use std::{fs, io, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap_complete::Shell;

use crate::policy::schema;

/// Print the script by which a shell completes this command's words
///
/// For bash: ssa-agent completions bash > /usr/share/bash-completion/completions/ssa-agent
#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Write the manual pages of this command and its subcommands
#[derive(clap::Args)]
pub(crate) struct ManualArgs {
    /// The folder that they are written to
    folder: PathBuf,
}

/// Print the JSON schema of the configuration file
///
/// `cargo xtask codegen` makes deploy/agent.toml and ssa-agent.toml(5) from it.
#[derive(clap::Args)]
pub(crate) struct SchemaArgs {}

/// Runs `ssa-agent completions`.
pub(crate) fn completions(args: &CompletionsArgs, mut command: clap::Command) -> ExitCode {
    clap_complete::generate(args.shell, &mut command, "ssa-agent", &mut io::stdout());
    ExitCode::SUCCESS
}

/// Runs `ssa-agent manual`.
pub(crate) fn manual(args: &ManualArgs, mut command: clap::Command) -> Result<ExitCode> {
    let failed = || format!("writing to {}", args.folder.display());
    fs::create_dir_all(&args.folder).with_context(failed)?;
    // Gives each its whole name.
    command.build();
    let commands = std::iter::once(&command).chain(command.get_subcommands().filter(|one| !one.is_hide_set()));
    for command in commands.filter(|one| one.get_name() != "help") {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone().name(leak(&name))).section("8").render(&mut page)?;
        fs::write(args.folder.join(format!("{name}.8")), page).with_context(failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `ssa-agent schema`.
pub(crate) fn print_schema(_args: &SchemaArgs) -> Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&schema())?);
    Ok(ExitCode::SUCCESS)
}

/// Leaks a name: clap keeps names for as long as the process runs, which is over in a moment.
fn leak(name: &str) -> &'static str {
    Box::leak(name.to_owned().into_boxed_str())
}
