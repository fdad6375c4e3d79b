//! Results that `cargo xtask test` prints as a table in the end.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf};

use serde_json::Value;

/// Notes how a failing case came out: what `connect` in the program gave.
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

/// The file: rows of case, errno, milliseconds, text.
pub fn path() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    test.ancestors().nth(3).expect("target/release/deps").join("errnos.tsv")
}
