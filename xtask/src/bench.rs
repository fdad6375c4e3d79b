//! `cargo xtask bench`: ours and the peers' figures in one run.

use anyhow::Result;

use crate::{
    build,
    process::{as_root, check, target_dir},
    setup,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the tables to docs/bench.md as well
    #[arg(long)]
    write: bool,
    /// Measure only what the guards cost applications that use no TLS socket
    #[arg(long, conflicts_with = "write")]
    neighbours: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    setup::bench()?;
    build::with_programs()?;
    let mut bench = as_root(target_dir().join("release/ssa-bench"));
    if args.write {
        bench.arg("--write");
    }
    if args.neighbours {
        bench.arg("--neighbours");
    }
    check(&mut bench)
}
