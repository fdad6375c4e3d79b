//! `ssa-agent`: TLS as a service of the operating system.
//!
//! The path of a connection through these modules:
//!
//! 1. `kernel::events`: a hook has held a SYN;
//! 2. `registry`: which attempt of which socket it is;
//! 3. `outbound`: dials (`dial`) from inside the program's `netns`, shakes hands (`tls`), with the settings of
//!    the socket's context (`contexts`, and `caller` for files that they name);
//! 4. `kernel::maps`: the answers to the program's questions are published;
//! 5. `kernel::packet`: the SYN is resumed, or refused with what `error` says;
//! 6. `relay`: bytes both ways.
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

/// Runs the program: parses its arguments, and says in one line what went wrong.
pub fn main() -> std::process::ExitCode {
    cli::main::main()
}
