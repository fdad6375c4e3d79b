//! `cargo xtask test`: all tests, unit to system, and what they found in a table.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::{cargo, check, target_dir},
    setup,
};

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// Tests that have passed, failed, and not run.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    /// Ignored for want of what this machine lacks: `cargo xtask vm` has it.
    not_run: usize,
}

impl Count {
    /// Adds what is behind `test result: ` in a summary of cargo's.
    fn add(&mut self, summary: &str) {
        self.passed += number_before(summary, " passed");
        self.failed += number_before(summary, " failed");
        self.not_run += number_before(summary, " ignored");
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, failed, not_run } = self;
        write!(formatter, "{passed} passed, {failed} failed, {not_run} not run")
    }
}

/// Builds in release mode: the system tests move much data. They need root, so that all tests run
/// through sudo unless this process is root.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    check(cargo().args(["build", "--locked", "--release", "--package", "ssa-agent"]))?;
    let table = target_dir().join("errnos.tsv");
    // Absent before the first run.
    let _absent = fs::remove_file(&table);
    eprintln!("\n=== unit tests ===");
    let unit = tests(&["--workspace", "--exclude", "ssa-tests", "--exclude", "ssa-ebpf"], args)?;
    eprintln!("\n=== system tests: a real kernel, real sockets, real peers ===");
    let system = tests(&["--package", "ssa-tests"], args)?;
    print_table(&fs::read_to_string(&table).unwrap_or_default());
    println!("\nunit tests: {unit}\nsystem tests: {system}");
    let both = Count {
        passed: unit.passed + system.passed,
        failed: unit.failed + system.failed,
        not_run: unit.not_run + system.not_run,
    };
    println!("{both}");
    if both.not_run > 0 {
        println!("Tests that did not run need what this machine lacks: `cargo xtask vm`.");
    }
    ensure!(both.failed == 0, "tests failed");
    ensure!(args.filter.is_some() || (unit.passed > 0 && system.passed > 0), "no test ran");
    Ok(())
}

/// Runs `cargo test` for some packages, shows what it prints, and counts.
fn tests(packages: &[&str], args: &Args) -> Result<Count> {
    let mut test = cargo();
    test.args(["test", "--locked", "--release", "--no-fail-fast"]).args(packages);
    if !nix::unistd::geteuid().is_root() {
        let runner = format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", env::consts::ARCH.to_uppercase());
        test.env(runner, "sudo --preserve-env --");
    }
    if let Some(filter) = &args.filter {
        test.arg("--").arg(filter);
    }
    count(&mut test)
}

fn count(test: &mut Command) -> Result<Count> {
    let mut child = test.stdout(Stdio::piped()).spawn().context("cargo test can't be started")?;
    let mut count = Count::default();
    for line in BufReader::new(child.stdout.take().context("piped")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some(rest) = line.strip_prefix("test result: ") {
            count.add(rest);
        }
    }
    let status = child.wait()?;
    ensure!(status.success() || count.failed > 0, "cargo test failed ({status})");
    Ok(count)
}

/// The number that stands before `word`.
fn number_before(text: &str, word: &str) -> usize {
    text.split(word).next().and_then(|head| head.rsplit(' ').next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The rows that the tests have left: case, errno, milliseconds, text.
fn print_table(rows: &str) {
    let mut rows: Vec<Vec<&str>> = rows.lines().map(|row| row.splitn(4, '\t').collect()).collect();
    rows.sort();
    if rows.is_empty() {
        return;
    }
    println!("\nWhat connect(2) gives when it fails:\n");
    println!("{:<30} {:<13} {:>6}  TLS_ERROR", "case", "errno", "ms");
    for row in &rows {
        if let [case, errno, ms, text] = row[..] {
            println!("{case:<30} {errno:<13} {ms:>6}  {text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_cargos_summary() {
        let mut count = Count::default();
        count.add("FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out");
        count.add("ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(count.to_string(), "13 passed, 3 failed, 1 not run");
    }
}
