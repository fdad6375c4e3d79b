//! `cargo xtask vm`: the system tests on other kernels.

mod kernel;
mod machine;
mod matrix;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use machine::{Accel, System};

use crate::{
    process::{cargo, check, output, root, target_dir},
    setup,
};

/// Kernels that are claimed to work: the beginnings of their versions.
const CLAIMED: [&str; 3] = ["6.1", "6.12", "7"];

/// How long all tests may take on one kernel.
const SUITE_LIMIT: Duration = Duration::from_secs(45 * 60);
/// How long the tests of one file may take, in seconds.
const FILE_LIMIT: u32 = 900;
/// How long a machine may take to show that its processor works.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Boots Debian kernels in QEMU, below this machine's own files (what is written there is forgotten), and runs
/// the system tests. Kernels are fetched through apt, with its signature checks, and kept in the user's cache.
/// Without a working /dev/kvm the processor is emulated: then tests take some times as long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernels, by the beginning of their version: of each the newest that Debian has
    #[arg(long, value_delimiter = ',', value_name = "VERSION", default_values = CLAIMED)]
    kernel: Vec<String>,
    /// Run only tests whose name contains this
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// Write what came out to docs/kernels.md; kernels and tests that were not run stay there as they were
    #[arg(long, conflicts_with = "command")]
    write: bool,
    /// Run this command there instead of the tests, as root
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What came out on one kernel.
struct Row {
    release: String,
    /// By file and name; true if it passed.
    tests: BTreeMap<String, bool>,
    /// Instructions that the verifier followed, by program.
    programs: BTreeMap<String, u64>,
    /// Files whose tests did not come to their end.
    broken: Vec<String>,
    took: Duration,
}

impl Row {
    fn new(release: &str) -> Self {
        Self {
            release: release.to_owned(),
            tests: BTreeMap::new(),
            programs: BTreeMap::new(),
            broken: Vec::new(),
            took: Duration::ZERO,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    let kernels: Vec<&str> = args.kernel.iter().map(String::as_str).collect();
    if args.command.is_empty() {
        return verdict(&suite(&kernels, args.test.as_deref(), args.write)?);
    }
    build()?;
    let script: Vec<String> = args.command.iter().map(|word| quoted(word)).collect();
    for wanted in kernels {
        let kernel = kernel::fetch(wanted)?;
        eprintln!("=== Linux {} ===", kernel.release);
        let script = format!("cd {}; {}", quoted(&root().to_string_lossy()), script.join(" "));
        machine::run(&kernel, accel(&kernel)?, &System::Own, &script, SUITE_LIMIT, |line| println!("{line}"))?;
    }
    Ok(())
}

/// Runs a script below systemd, in a machine that has the files below a folder.
pub(crate) fn systemd(wanted: &str, files: &Path, script: &str, limit: Duration, line: impl FnMut(&str)) -> Result<()> {
    let kernel = kernel::fetch(wanted)?;
    machine::run(&kernel, accel(&kernel)?, &System::Systemd(files), script, limit, line)
}

/// Runs tests on the oldest and the newest kernel, and fails if any does: on both those that touch each hook and all that may
/// be refused there, on the oldest also those that ask most of the kernel besides.
pub(crate) fn ends() -> Result<()> {
    const BOTH: [&str; 6] = ["attach", "connect", "doctor", "limits", "never", "protocol"];
    const OLDEST: [&str; 4] = ["options", "relay", "rules", "server"];
    let programs = prepare()?;
    let is = |program: &Path, files: &[&str]| files.contains(&file_of(program).as_str());
    let newest: Vec<_> = programs.iter().filter(|program| is(program, &BOTH)).cloned().collect();
    let more = programs.iter().filter(|program| is(program, &OLDEST)).cloned();
    let oldest: Vec<_> = newest.iter().cloned().chain(more).collect();
    let mut rows = on_each(&CLAIMED[..1], &oldest, None, false)?;
    rows.extend(on_each(&CLAIMED[CLAIMED.len() - 1..], &newest, None, false)?);
    verdict(&rows)
}

fn suite(kernels: &[&str], filter: Option<&str>, write: bool) -> Result<Vec<Row>> {
    on_each(kernels, &prepare()?, filter, write)
}

fn on_each(kernels: &[&str], programs: &[PathBuf], filter: Option<&str>, write: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for wanted in kernels {
        let kernel = kernel::fetch(wanted)?;
        let accel = accel(&kernel)?;
        eprintln!("\n=== system tests on Linux {}, {accel:?} ===", kernel.release);
        let row = one(&kernel, accel, programs, filter)?;
        if write {
            let path = root().join("docs/kernels.md");
            let mut all = matrix::read(&fs::read_to_string(&path).unwrap_or_default());
            matrix::put(&mut all, &row, filter.is_some());
            fs::write(&path, matrix::document(&all)?)?;
            eprintln!("wrote {}", path.display());
        }
        rows.push(row);
    }
    Ok(rows)
}

/// What every machine needs.
fn build() -> Result<()> {
    ensure!(std::env::consts::ARCH == "x86_64", "Debian kernels for virtual machines are fetched for x86-64 only");
    setup::vm()?;
    check(cargo().args(["build", "--locked", "--release", "--package", "ssa-agent"]))
}

/// Builds the agent and the tests; returns the tests' programs.
fn prepare() -> Result<Vec<PathBuf>> {
    build()?;
    let mut build = cargo();
    build.args(["test", "--locked", "--release", "--package", "ssa-tests", "--tests", "--no-run"]);
    check(&mut build)?;
    let messages = output(build.args(["--message-format", "json"]))?;
    let programs = messages.lines().filter_map(executable).filter(|path| is_system_test(path));
    let programs: Vec<PathBuf> = programs.collect();
    ensure!(!programs.is_empty(), "cargo built no test");
    Ok(programs)
}

/// The program in one of cargo's messages (the JSON of `compiler-artifact`).
fn executable(message: &str) -> Option<PathBuf> {
    let rest = message.split_once(r#""executable":""#)?.1;
    Some(PathBuf::from(rest.split_once('"')?.0))
}

/// Whether this is one of tests/tests, not of the fixtures.
fn is_system_test(program: &Path) -> bool {
    root().join("tests/tests").join(format!("{}.rs", file_of(program))).is_file()
}

/// The test file that a program was built of: its name without the hash.
fn file_of(program: &Path) -> String {
    let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.rsplit_once('-').map_or(name.clone(), |(file, _hash)| file.to_owned())
}

fn one(kernel: &kernel::Kernel, accel: Accel, programs: &[PathBuf], filter: Option<&str>) -> Result<Row> {
    let began = Instant::now();
    let mut row = Row::new(&kernel.release);
    machine::run(kernel, accel, &System::Own, &script(programs, filter), SUITE_LIMIT, |line| {
        let Some(news) = line.strip_prefix("ssa-vm: ") else {
            println!("{line}");
            return;
        };
        match news.split(' ').collect::<Vec<_>>()[..] {
            ["result", file, outcome, name] => {
                row.tests.insert(format!("{file}::{name}"), outcome == "ok");
            }
            ["ended", file, status] if status != "0" && status != "101" => {
                row.broken.push(format!("{file} (exit status {status})"));
            }
            ["program", name, instructions] => {
                row.programs.insert(name.to_owned(), instructions.parse().unwrap_or(0));
            }
            _ => {}
        }
    })?;
    row.took = began.elapsed();
    ensure!(filter.is_some() || !row.tests.is_empty(), "no test ran on Linux {}", row.release);
    Ok(row)
}

/// Runs each program, and says what came of it in lines of its own.
fn script(programs: &[PathBuf], filter: Option<&str>) -> String {
    let agent = target_dir().join("release/ssa-agent");
    let mut script = format!(
        "cd {}/tests\n{} doctor --programs | sed 's/^/ssa-vm: program /'\n",
        quoted(&root().to_string_lossy()),
        quoted(&agent.to_string_lossy())
    );
    for program in programs {
        let file = file_of(program);
        let filter = filter.map(quoted).unwrap_or_default();
        // What fails runs again, alone, twice at most: an emulated machine is slow, and two tests at once are slower.
        script += &format!(
            "echo '--- {file}'; test={}\n\
             rm -f /tmp/ssa-results; timeout {FILE_LIMIT} $test --color never --logfile /tmp/ssa-results {filter} 2>&1\n\
             echo; echo \"ssa-vm: ended {file} $?\"; sed 's/^/ssa-vm: result {file} /' /tmp/ssa-results\n\
             for name in $(sed -n 's/^failed //p' /tmp/ssa-results); do\n\
             for again in 1 2; do rm -f /tmp/ssa-again\n\
             timeout {FILE_LIMIT} $test --color never --logfile /tmp/ssa-again --exact $name 2>&1 && break; done\n\
             echo; sed 's/^/ssa-vm: result {file} /' /tmp/ssa-again; rm -f /tmp/ssa-again\n\
             done\n",
            quoted(&program.to_string_lossy())
        );
    }
    // What the kernel had to say: nothing, if all is well.
    script + "dmesg --level=emerg,alert,crit,err,warn 2>/dev/null | tail -n 20\n"
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// KVM where it works: a machine may have a /dev/kvm that never comes to anything.
fn accel(kernel: &kernel::Kernel) -> Result<Accel> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accel::Tcg);
    }
    let works = machine::run(kernel, Accel::Kvm, &System::Own, "true", PROBE_LIMIT, |_line| ()).is_ok();
    Ok(if works { Accel::Kvm } else { Accel::Tcg })
}

fn verdict(rows: &[Row]) -> Result<()> {
    println!("\n{:<32} {:>7} {:>7} {:>8}", "kernel", "passed", "failed", "minutes");
    let mut failed = Vec::new();
    for row in rows {
        let passed = row.tests.values().filter(|passed| **passed).count();
        let minutes = row.took.as_secs_f64() / 60.0;
        println!("{:<32} {passed:>7} {:>7} {minutes:>8.1}", row.release, row.tests.len() - passed);
        failed.extend(row.tests.iter().filter(|(_name, passed)| !**passed).map(|(name, _)| (&row.release, name)));
        failed.extend(row.broken.iter().map(|file| (&row.release, file)));
    }
    for (release, name) in &failed {
        println!("failed on {release}: {name}");
    }
    ensure!(failed.is_empty(), "{} tests failed", failed.len());
    rows.first().context("no kernel was named").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","executable":"/t/release/deps/peer_leg-6b1063ed","fresh":true}"#;
        let program = executable(message).unwrap();
        assert_eq!(file_of(&program), "peer_leg");
        assert!(executable(r#"{"reason":"compiler-artifact","executable":null}"#).is_none());
    }
}
