//! `cargo xtask vm`: the system tests on other kernels.

mod kernel;
mod machine;
mod matrix;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
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

/// Time limit of all tests on one kernel.
const SUITE_LIMIT: Duration = Duration::from_secs(45 * 60);
/// Time limit of the tests of one topic, in seconds.
const TOPIC_LIMIT: u32 = 30 * 60;
/// The first kernel where an eBPF program may change the protocol of a socket (`update_socket_protocol`): what is
/// ignored elsewhere for want of it runs from there on.
const SOCKET_PROTOCOL_SINCE: [u32; 2] = [6, 6];
/// Time limit of a machine that is to show that its processor works.
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
    /// Run what CI runs: those tests that ask most of a kernel, on the oldest and the newest
    #[arg(long, conflicts_with_all = ["kernel", "test", "write", "command"])]
    short: bool,
    /// Run this command there instead of the tests, as root
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Results of one kernel.
struct Row {
    release: String,
    /// Results by topic, file and name; true if the test passed.
    tests: BTreeMap<String, bool>,
    /// Tests that this kernel can't run.
    not_run: BTreeSet<String>,
    /// Instructions that the verifier followed, by program.
    programs: BTreeMap<String, u64>,
    /// Topics whose tests did not come to their end.
    broken: Vec<String>,
    took: Duration,
}

impl Row {
    fn new(release: &str) -> Self {
        Self {
            release: release.to_owned(),
            tests: BTreeMap::new(),
            not_run: BTreeSet::new(),
            programs: BTreeMap::new(),
            broken: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Takes up what a machine's script says: `result TOPIC OUTCOME NAME` (as libtest's log file has it, where an outcome
    /// may have a reason behind it), `ended TOPIC STATUS`, or `program NAME INSTRUCTIONS`.
    fn note(&mut self, news: &str) {
        match news.split(' ').collect::<Vec<_>>()[..] {
            ["result", topic, outcome, .., name] if outcome.starts_with("ignored") => {
                self.not_run.insert(format!("{topic}::{name}"));
            }
            ["result", topic, outcome, .., name] => {
                self.tests.insert(format!("{topic}::{name}"), outcome == "ok");
            }
            ["ended", topic, status] if status != "0" && status != "101" => {
                self.broken.push(format!("{topic} (exit status {status})"));
            }
            ["program", name, instructions] => {
                self.programs.insert(name.to_owned(), instructions.parse().unwrap_or(0));
            }
            _ => {}
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    if args.short {
        return ends();
    }
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

/// The tests of one topic that are to run: those whose name contains one of the filters, or all.
#[derive(Clone)]
struct Topic {
    executable: PathBuf,
    filters: Vec<String>,
}

impl Topic {
    /// Name of the topic, a folder of tests/tests.
    fn name(&self) -> String {
        topic_of(&self.executable)
    }
}

/// Runs tests on the oldest and the newest kernel, and fails if any does: on both those that touch each hook and all that may
/// be refused there, on the oldest also those that ask most of the kernel besides. What is ignored elsewhere must run here.
pub(crate) fn ends() -> Result<()> {
    const BOTH: [&str; 11] = [
        "client::connect",
        "client::protocol",
        "lifecycle::doctor",
        "lifecycle::leaks::applications_killed_in_connect_leave_nothing_behind",
        "never::agent_gone",
        "never::firewall",
        "never::intruders",
        "never::neighbours",
        "never::plaintext",
        "never::rights::path_is_opened_with_the_rights_of_the_application",
        "services::attach",
    ];
    const OLDEST: [&str; 6] =
        ["client::contexts", "client::option_table", "client::options", "client::relay", "rules", "server"];
    let executables = prepare()?;
    let all = [&BOTH[..], &OLDEST[..]].concat();
    let mut rows = on_each(&CLAIMED[..1], &chosen(&executables, &all), false)?;
    rows.extend(on_each(&CLAIMED[CLAIMED.len() - 1..], &chosen(&executables, &BOTH), false)?);
    verdict(&rows)?;
    for (row, names) in rows.iter().zip([&all[..], &BOTH[..]]) {
        let has_run = |name: &&&str| row.tests.keys().any(|test| test.starts_with(**name));
        let none = names.iter().find(|name| !has_run(name));
        ensure!(none.is_none(), "Linux {} has run nothing of {}", row.release, none.unwrap_or(&""));
    }
    let nowhere = nowhere_run(&ignored(&executables)?, &rows);
    ensure!(nowhere.is_empty(), "no kernel has run {}", nowhere.join(", "));
    Ok(())
}

/// Topics, files of topics (`topic::file`) and tests (`topic::file::test`), with the executables that they are in.
fn chosen(executables: &[PathBuf], names: &[&str]) -> Vec<Topic> {
    let parts = |name: &str| match name.split_once("::") {
        Some((topic, test)) if test.contains("::") => (topic.to_owned(), test.to_owned()),
        Some((topic, file)) => (topic.to_owned(), format!("{file}::")),
        None => (name.to_owned(), String::new()),
    };
    let names: Vec<(String, String)> = names.iter().map(|name| parts(name)).collect();
    let of_topic = |executable: &PathBuf| {
        let own = names.iter().filter(|(topic, _filter)| *topic == topic_of(executable));
        Topic { executable: executable.clone(), filters: own.map(|(_topic, filter)| filter.clone()).collect() }
    };
    let topics = executables.iter().map(of_topic).filter(|topic| !topic.filters.is_empty());
    // An empty filter is the whole topic.
    topics
        .map(
            |topic| if topic.filters.contains(&String::new()) { Topic { filters: Vec::new(), ..topic } } else { topic },
        )
        .collect()
}

/// Tests that `cargo test` ignores: they run in a virtual machine only.
fn ignored(executables: &[PathBuf]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for executable in executables {
        let list = output(Command::new(executable).args(["--list", "--ignored", "--format", "terse"]))?;
        let own = list.lines().filter_map(|line| line.strip_suffix(": test"));
        names.extend(own.map(|name| format!("{}::{name}", topic_of(executable))));
    }
    Ok(names)
}

/// Picks out the tests that no kernel has run.
fn nowhere_run(tests: &[String], rows: &[Row]) -> Vec<String> {
    tests.iter().filter(|name| !rows.iter().any(|row| row.tests.contains_key(*name))).cloned().collect()
}

fn suite(kernels: &[&str], filter: Option<&str>, write: bool) -> Result<Vec<Row>> {
    let filters: Vec<String> = filter.map(str::to_owned).into_iter().collect();
    let executables = prepare()?.into_iter();
    let topics: Vec<Topic> = executables.map(|executable| Topic { executable, filters: filters.clone() }).collect();
    on_each(kernels, &topics, write)
}

fn on_each(kernels: &[&str], topics: &[Topic], write: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for wanted in kernels {
        let kernel = kernel::fetch(wanted)?;
        let accel = accel(&kernel)?;
        eprintln!("\n=== system tests on Linux {}, {accel:?} ===", kernel.release);
        let row = one(&kernel, accel, topics)?;
        if write {
            let path = root().join("docs/kernels.md");
            let mut all = matrix::read(&fs::read_to_string(&path).unwrap_or_default());
            matrix::put(&mut all, &row, topics.iter().any(|topic| !topic.filters.is_empty()));
            fs::write(&path, matrix::document(&all)?)?;
            eprintln!("wrote {}", path.display());
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Builds what every machine needs.
fn build() -> Result<()> {
    ensure!(std::env::consts::ARCH == "x86_64", "Debian kernels for virtual machines are fetched for x86-64 only");
    setup::vm()?;
    check(cargo().args(["build", "--locked", "--release", "--package", "ssa-agent"]))
}

/// Builds the agent and the tests; returns the tests' executables.
fn prepare() -> Result<Vec<PathBuf>> {
    build()?;
    let mut build = cargo();
    build.args(["test", "--locked", "--release", "--package", "ssa-tests", "--tests", "--no-run"]);
    check(&mut build)?;
    let messages = output(build.args(["--message-format", "json"]))?;
    let executables = messages.lines().filter_map(executable).filter(|path| is_system_test(path));
    let executables: Vec<PathBuf> = executables.collect();
    ensure!(!executables.is_empty(), "cargo built no test");
    Ok(executables)
}

/// The executable in one of cargo's messages (the JSON of `compiler-artifact`).
fn executable(message: &str) -> Option<PathBuf> {
    let rest = message.split_once(r#""executable":""#)?.1;
    Some(PathBuf::from(rest.split_once('"')?.0))
}

/// Whether an executable is one of tests/tests, not of the fixtures.
fn is_system_test(executable: &Path) -> bool {
    root().join("tests/tests").join(topic_of(executable)).is_dir()
}

/// The folder of tests that an executable was built of: its name without the hash.
fn topic_of(executable: &Path) -> String {
    let name = executable.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.rsplit_once('-').map_or(name.clone(), |(topic, _hash)| topic.to_owned())
}

fn one(kernel: &kernel::Kernel, accel: Accel, topics: &[Topic]) -> Result<Row> {
    let began = Instant::now();
    let mut row = Row::new(&kernel.release);
    machine::run(kernel, accel, &System::Own, &script(topics, &kernel.release), SUITE_LIMIT, |line| {
        match line.strip_prefix("ssa-vm: ") {
            Some(news) => row.note(news),
            None => println!("{line}"),
        }
    })?;
    row.took = began.elapsed();
    let some = topics.iter().any(|topic| !topic.filters.is_empty());
    ensure!(some || !row.tests.is_empty(), "no test ran on Linux {}", row.release);
    Ok(row)
}

/// Runs each executable, and says what came of it in lines of its own ([`Row::note`]). Each test runs once: one that fails
/// now and then has a fault, or its subject has.
fn script(topics: &[Topic], release: &str) -> String {
    let agent = target_dir().join("release/ssa-agent");
    let mut script = format!(
        "cd {}/tests\n{} doctor --programs | sed 's/^/ssa-vm: program /'\n",
        quoted(&root().to_string_lossy()),
        quoted(&agent.to_string_lossy())
    );
    let include = if kernel::numbers(release)[..] >= SOCKET_PROTOCOL_SINCE[..] { "--include-ignored" } else { "" };
    for topic in topics {
        let (name, executable) = (topic.name(), quoted(&topic.executable.to_string_lossy()));
        let filters: Vec<String> = topic.filters.iter().map(|filter| quoted(filter)).collect();
        let filters = filters.join(" ");
        script += &format!(
            "echo '--- {name}'; rm -f /tmp/ssa-results\n\
             timeout {TOPIC_LIMIT} {executable} --color never --logfile /tmp/ssa-results {include} {filters} 2>&1\n\
             status=$?; echo; echo \"ssa-vm: ended {name} $status\"; sed 's/^/ssa-vm: result {name} /' /tmp/ssa-results\n",
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
    println!("\n{:<32} {:>7} {:>7} {:>8} {:>8}", "kernel", "passed", "failed", "not run", "minutes");
    let mut failed = Vec::new();
    for row in rows {
        let passed = row.tests.values().filter(|passed| **passed).count();
        let (bad, not_run) = (row.tests.len() - passed, row.not_run.len());
        println!("{:<32} {passed:>7} {bad:>7} {not_run:>8} {:>8.1}", row.release, row.took.as_secs_f64() / 60.0);
        failed.extend(row.tests.iter().filter(|(_name, passed)| !**passed).map(|(name, _)| (&row.release, name)));
        failed.extend(row.broken.iter().map(|topic| (&row.release, topic)));
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
    fn executables_are_found_in_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","executable":"/t/release/deps/client-6b1063ed","fresh":true}"#;
        let path = executable(message).unwrap();
        assert_eq!(topic_of(&path), "client");
        assert!(executable(r#"{"reason":"compiler-artifact","executable":null}"#).is_none());
    }

    #[test]
    fn results_are_passed_failed_or_not_run() {
        let mut row = Row::new("6.1");
        row.note("result client ok relay::a");
        row.note("result client failed relay::b");
        row.note("result client ignored: needs what is not there protocol::c");
        row.note("ended client 101");
        row.note("ended server 124");
        assert_eq!(
            row.tests,
            BTreeMap::from([("client::relay::a".to_owned(), true), ("client::relay::b".to_owned(), false)])
        );
        assert_eq!(row.broken, ["server (exit status 124)"]);
        let ignored = ["client::protocol::c".to_owned(), "client::relay::a".to_owned()];
        assert_eq!(row.not_run, BTreeSet::from([ignored[0].clone()]));
        assert_eq!(nowhere_run(&ignored, &[row]), ignored[..1]);
    }

    #[test]
    fn topics_and_files_of_topics_are_chosen() {
        let executables = ["/t/client-1", "/t/rules-2", "/t/server-3"].map(PathBuf::from);
        let topics = chosen(&executables, &["client::relay", "client::connect::one", "rules"]);
        let found: Vec<_> = topics.iter().map(|topic| (topic.name(), topic.filters.join(" "))).collect();
        let wanted = [("client", "relay:: connect::one"), ("rules", "")];
        assert_eq!(found, wanted.map(|(topic, filters)| (topic.to_owned(), filters.to_owned())));
    }
}
