//! `ssa-agent`: TLS as a service of the operating system.
//!
//! The layers, from the top down; a folder imports only folders below it (`cargo xtask layers`):
//!
//! - `cli`: the command line; `app`: the running agent;
//! - `outbound`, `inbound`: one connect(2), one accept(2); `control`: the control socket;
//! - `connection`: what both directions share; `options`: what applications have set; `revocation`;
//! - `dial`: TCP to a peer; `enforce`: policy, rules and limits in force;
//! - `netns`: inside a network namespace; `services`: attached cgroups;
//! - `kernel`: the kernel half; `policy`: what the administrator wrote; `relay`: bytes both ways;
//! - `tls`: OpenSSL; `telemetry`; `sys`: system calls;
//! - `drain`: what the process is doing; `sync`: locks.
//!
//! A held connect walks them once: `kernel` reads its event, `app` gives it to `outbound`, which asks `enforce` whether
//! it may and as what, `options` with which settings, dials, shakes hands, publishes the answers, ends the hold and
//! relays.
#![deny(unsafe_code)]

mod app;
mod cli;
mod connection;
mod control;
mod dial;
mod drain;
mod enforce;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod inbound;
mod kernel;
mod netns;
mod options;
mod outbound;
mod policy;
mod relay;
mod revocation;
mod services;
mod sync;
mod sys;
mod telemetry;
mod tls;

/// Runs the command line: parses the arguments, and says in one line what went wrong.
pub fn main() -> std::process::ExitCode {
    cli::main::main()
}
