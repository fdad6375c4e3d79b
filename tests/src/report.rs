//! Results that `cargo xtask test` prints as a table in the end.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf, time::Duration};

use serde_json::Value;

/// Notes how a failing case came out: what `connect` in the application gave.
pub fn errno(case: &str, came: &Value) {
    let line = format!(
        "{case}\t{}\t{:.0}\t{}\n",
        came["result"].as_str().unwrap_or("?"),
        came["ms"].as_f64().unwrap_or(0.0),
        came["error"].as_str().unwrap_or("?")
    );
    let mut file = OpenOptions::new().create(true).append(true).open(path()).expect("the build folder is ours");
    file.write_all(line.as_bytes()).expect("there is room");
}

/// Notes what came of a fault, for the table of docs/reliability.md: what the application saw, how much plaintext was on the wire,
/// what was wrong with what arrived, and how long the next connection took.
pub fn fault(fault: &str, times: usize, saw: &str, (leaks, wrong): (usize, usize), mut recoveries: Vec<Duration>) {
    recoveries.sort();
    let ms = |index: usize| recoveries.get(index).map_or(0, Duration::as_millis);
    let (median, most) = (ms(recoveries.len() / 2), ms(recoveries.len().saturating_sub(1)));
    let row = format!("| {fault} | {times} | {saw} | {leaks} | {wrong} | {median} / {most} |");
    let path = path().with_file_name("faults.md");
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the build folder is ours");
    writeln!(file, "{row}").expect("there is room");
}

/// Notes a measurement, for whoever wants to know how long something took: tests assert no times.
pub fn note(what: &str, came: &str) {
    let path = path().with_file_name("notes.md");
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the build folder is ours");
    writeln!(file, "| {what} | {came} |").expect("there is room");
}

/// The file: rows of case, errno, milliseconds, text.
pub fn path() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    test.ancestors().nth(3).expect("target/release/deps").join("errnos.tsv")
}
