//! Other people's programs see no change.

use std::{collections::BTreeMap, process::Command};

use ssa_tests::{agent::Agent, app::command};

/// CPython's own socket tests, as Debian ships them, inside the cgroup and outside.
#[test]
fn cpython_socket_tests_give_the_same_results_inside_and_outside() {
    let agent = Agent::start();
    let outside = results(Command::new("/usr/bin/python3"));
    let inside = results(command(&agent, "/usr/bin/python3"));
    assert!(outside.len() > 300, "only {} tests ran", outside.len());
    let changed: Vec<_> = outside
        .iter()
        .filter(|(test, result)| inside.get(*test) != Some(result))
        .map(|(test, result)| format!("{test}: {result} outside, {:?} inside", inside.get(test)))
        .collect();
    assert!(changed.is_empty(), "{changed:#?}");
    assert_eq!(inside.len(), outside.len());
}

/// All of test_socket but the tests of virtual machines' sockets, which hang in some of them.
const SUITE: &str = "
import unittest, test.test_socket as suite
for name in [name for name in vars(suite) if 'VSOCK' in name and name.endswith('Test')]: delattr(suite, name)
unittest.main(suite, argv=['test_socket', '-v'])
";

/// Name and result of each test.
fn results(mut python: Command) -> BTreeMap<String, String> {
    let output = python.args(["-c", SUITE]).env_remove("PYTHONPATH").output().expect("python3 is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines()
        .filter_map(|line| {
            let (test, result) = line.split_once(" ... ")?;
            let result = result.split_whitespace().next()?;
            ["ok", "skipped", "FAIL", "ERROR"].contains(&result).then(|| (test.to_owned(), result.to_owned()))
        })
        .collect()
}
