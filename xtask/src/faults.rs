//! `cargo xtask faults`: the long form of what injects faults (tests/tests/faults.rs, upgrade.rs, calls.rs), and its table.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{
    process::{cargo, check, root, target_dir},
    setup,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only faults whose test's name contains this
    filter: Option<String>,
    /// Write the table to docs/reliability.md
    #[arg(long, conflicts_with = "filter")]
    write: bool,
}

/// Where the table begins and ends.
const MARKS: [&str; 2] = ["<!-- table: cargo xtask faults --write -->\n", "<!-- end of the table -->"];

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    check(cargo().args(["build", "--locked", "--release", "--package", "ssa-agent"]))?;
    let rows = target_dir().join("faults.md");
    // Absent before the first run.
    let _absent = fs::remove_file(&rows);
    let mut test = cargo();
    test.args(["test", "--locked", "--release", "--no-fail-fast", "--package", "ssa-tests"]);
    test.args(["--test", "faults", "--test", "upgrade", "--test", "calls", "--", "--test-threads", "1"]);
    check(test.args(&args.filter).env("SSA_FAULTS", "long"))?;
    let head = "| fault | times | what the program saw | plaintext packets | wrong bytes or ends | until the next connection, \
                ms: median / longest |\n|---|---|---|---|---|---|\n";
    let table = format!("{head}{}", fs::read_to_string(&rows)?);
    println!("\n{table}");
    if args.write {
        let path = root().join("docs/reliability.md");
        let text = fs::read_to_string(&path)?;
        let (before, rest) = text.split_once(MARKS[0]).context("the table's place is not marked")?;
        let (_old, after) = rest.split_once(MARKS[1]).context("the table's end is not marked")?;
        fs::write(&path, format!("{before}{}{table}{}{after}", MARKS[0], MARKS[1]))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
