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

/// Name and result of each test.
fn results(mut python: Command) -> BTreeMap<String, String> {
    let output = python
        .args(["-m", "unittest", "-v", "test.test_socket"])
        .env_remove("PYTHONPATH")
        .output()
        .expect("python3 is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines()
        .filter_map(|line| {
            let (test, result) = line.split_once(" ... ")?;
            let result = result.split_whitespace().next()?;
            ["ok", "skipped", "FAIL", "ERROR"].contains(&result).then(|| (test.to_owned(), result.to_owned()))
        })
        .collect()
}
