//! `cargo xtask soak`: the agent under load for a long time.

use anyhow::Result;

use crate::{
    build,
    process::{as_root, check, root, target_dir},
    setup,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Connections a second: half of them made by applications, half accepted by one
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Draw memory, descriptors and map entries in docs/soak.svg
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    build::with_programs()?;
    let mut soak = as_root(target_dir().join("release/ssa-soak"));
    soak.args([(args.minutes * 60).to_string(), args.rate.to_string()]);
    if args.write {
        soak.arg(root().join("docs/soak.svg"));
    }
    check(&mut soak)
}
