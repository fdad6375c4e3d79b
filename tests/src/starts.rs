//! Services that connect as soon as they have begun (`programs/starts.c`).

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    app::{compile, programs},
    server::Server,
    slow_machine,
};

/// Starts a service in each of these cgroups, some at once: each connects to the server, and is to be echoed. Returns
/// how many were, what the others got, and percentiles of the time that `connect` took.
pub fn start(folder: &Path, cgroups: impl Iterator<Item = PathBuf>, server: &Server, at_once: usize) -> Value {
    let starts = compile(folder, &programs().join("starts.c"), "cc", &["-static", "-O2", "-Wall", "-Werror"]);
    let mut child = Command::new(starts)
        .args([server.port(), at_once.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it was just compiled");
    let mut input = child.stdin.take().expect("piped");
    for cgroup in cgroups {
        writeln!(input, "{}", cgroup.display()).expect("it reads");
    }
    drop(input);
    let output = child.wait_with_output().expect("it is our child");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// Fails unless all of `count` services were echoed.
pub fn assert_all_good(came: &Value, count: usize) {
    assert_eq!((&came["good"], &came["errors"]), (&json!(count), &json!({})), "{came}");
}

/// Processes that leave others little time, while this is there.
pub struct Busy(Vec<Child>);

impl Busy {
    /// Starts as many as the machines of developers have CPUs; none on a slow machine, which is busy enough.
    pub fn start() -> Self {
        let begin = |_number| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("sh is installed");
        let count = if slow_machine() { 0 } else { 2 };
        Self((0..count).map(begin).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}
