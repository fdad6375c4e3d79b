//! `cargo xtask VERB`: the project's automation, one file per verb.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod apt;
mod bench;
mod build;
mod ci;
mod codegen;
mod faults;
mod fuzz;
mod image;
mod layers;
mod man;
mod manifests;
mod options_page;
mod package;
mod process;
mod reference;
mod run;
mod setup;
mod soak;
mod test;
mod usage;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, run and test SSA", version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing: Rust's library sources, bpf-linker, Debian packages
    ///
    /// Says what it installs and why; does nothing where all is there. Uses sudo unless it is run
    /// as root.
    Setup(setup::Args),
    /// Build the agent (release), with the eBPF object in it
    Build,
    /// Set up, build, attach to a cgroup, prove that it works, and stay up; or run one command
    Run(run::Args),
    /// Set up, build and run all tests, from unit to system
    Test(test::Args),
    /// Measure: this agent, OpenSSL in the application, nginx, haproxy and stunnel, in one run
    Bench(bench::Args),
    /// Inject faults, many of each, and tell what applications saw; takes half an hour
    Faults(faults::Args),
    /// Fuzz all that the agent parses, with an address sanitizer
    Fuzz(fuzz::Args),
    /// Keep the agent under load for an hour, and see that it holds no more in the end than in the beginning
    Soak(soak::Args),
    /// Make the Debian package; with --try, also install, use, upgrade and purge it in a clean Debian
    Package(package::Args),
    /// Make a container image of the agent and its libraries, with buildah
    Image,
    /// Check what is deployed and not compiled: Kubernetes manifests, Helm chart, dashboard, systemd unit
    Manifests,
    /// Run the system tests on other kernels, each in a virtual machine
    Vm(vm::Args),
    /// Check that the agent's folders import only what stands below them, and that no circle of files is large
    Layers,
    /// What CI runs: formatting, lints on both targets, generated files, documentation, tests
    Ci,
    /// Write the generated files: include/in_tls.h and its twins, docs/options.md, docs/man, deploy/agent.toml and its schema
    Codegen(codegen::Args),
}

fn main() -> Result<()> {
    match Args::parse().verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::Build => build::run().map(drop),
        Verb::Run(args) => run::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Faults(args) => faults::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Soak(args) => soak::run(&args),
        Verb::Image => image::run(),
        Verb::Manifests => manifests::run(),
        Verb::Package(args) => package::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::Layers => layers::run(),
        Verb::Ci => ci::run(),
        Verb::Codegen(args) => codegen::run(&args),
    }
}
