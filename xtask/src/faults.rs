//! `cargo xtask faults`: the long form of what injects faults (tests/tests/lifecycle/faults.rs and upgrade.rs,
//! tests/tests/never/calls.rs), and its table.

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
    /// Inject a few of each kind only, as the tests of CI do
    #[arg(long, conflicts_with = "write")]
    short: bool,
    /// Write what came out to docs/reliability.md; faults that were not injected stay there as they were
    #[arg(long)]
    write: bool,
}

/// Marks at the begin and end of the table.
const MARKS: [&str; 2] = ["<!-- table: cargo xtask faults --write -->\n", "<!-- end of the table -->"];

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    check(cargo().args(["build", "--locked", "--release", "--package", "ssa-agent"]))?;
    let rows = target_dir().join("faults.md");
    // Absent before the first run.
    let _absent = fs::remove_file(&rows);
    let mut test = cargo();
    test.args(["test", "--locked", "--release", "--no-fail-fast", "--package", "ssa-tests"]);
    test.args(["--test", "lifecycle", "--test", "never", "--", "--test-threads", "1"]);
    match &args.filter {
        Some(name) => test.arg(name),
        None => test.args(["faults::", "upgrade::", "calls::"]),
    };
    if !args.short {
        test.env("SSA_FAULTS", "long");
    }
    check(&mut test)?;
    let rows = fs::read_to_string(&rows)?;
    println!("\n{HEAD}{rows}");
    if args.write {
        let path = root().join("docs/reliability.md");
        let text = fs::read_to_string(&path)?;
        let (before, rest) = text.split_once(MARKS[0]).context("the table's place is not marked")?;
        let (old, after) = rest.split_once(MARKS[1]).context("the table's end is not marked")?;
        let table = merged(old, &rows);
        fs::write(&path, format!("{before}{}{HEAD}{table}{}{after}", MARKS[0], MARKS[1]))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

const HEAD: &str = "| fault | times | what the application saw | plaintext packets | wrong bytes or ends | until the next connection, ms: \
                    median / longest |\n|---|---|---|---|---|---|\n";

/// The rows of a table, with new ones in the place of those of the same fault, or behind them.
fn merged(table: &str, new: &str) -> String {
    let fault = |row: &str| row.split('|').nth(1).unwrap_or_default().trim().to_owned();
    let mut rows: Vec<&str> = table.lines().skip(HEAD.lines().count()).collect();
    for row in new.lines() {
        match rows.iter().position(|old| fault(old) == fault(row)) {
            Some(at) => rows[at] = row,
            None => rows.push(row),
        }
    }
    rows.iter().map(|row| format!("{row}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_rows_take_the_place_of_those_of_the_same_fault() {
        let table = format!("{HEAD}| a | 1 |\n| b | 2 |\n");
        assert_eq!(merged(&table, "| b | 3 |\n| c | 4 |\n"), "| a | 1 |\n| b | 3 |\n| c | 4 |\n");
        assert_eq!(merged("", "| a | 1 |\n"), "| a | 1 |\n");
    }
}
