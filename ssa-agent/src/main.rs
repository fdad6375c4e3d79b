//! `ssa-agent`: the executable; all that it does is in the library beside it, where fuzzers reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ssa_agent::main()
}
