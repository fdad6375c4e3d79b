//! Any sequence of socket calls, from many threads, with fork and kill: `programs/calls.c` makes them by a seed, and judges each.
//! What one has found is kept here as a seed.

use std::{
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use ssa_tests::{
    agent::Agent,
    app::{command, compile, programs, python},
    eventually,
    pki::{Leaf, Pki},
    report,
    server::Server,
};

const NAME: &str = "peer.ssa.test";

/// Lines of the kernel's log that are no good.
fn complaints() -> Vec<String> {
    let output = Command::new("dmesg").args(["--level", "emerg,alert,crit,err,warn"]).output().expect("it is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_ours =
        |line: &&str| ["BUG", "WARNING", "bpf", "refcount", "Oops", "leak"].iter().any(|word| line.contains(word));
    text.lines().filter(is_ours).map(str::to_owned).collect()
}

#[test]
fn random_calls_give_documented_errnos_and_touch_nobody_else() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let (chain, key) = pki.write("own", &leaf);
    let tls = Server::echo("127.0.0.1", &leaf);
    let plain = Server::tcp("127.0.0.1", |stream| {
        let Ok(mut back) = stream.try_clone() else { return };
        let _ended = std::io::copy(&mut &stream, &mut back);
    });
    let agent = Agent::start_quiet();
    let flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"];
    let executable = compile(pki.folder(), &programs().join("calls.c"), "gcc", &flags);
    let before = complaints();
    let (seeds, steps) = if std::env::var_os("SSA_FAULTS").is_some() { (200, "1000") } else { (12, "300") };
    let seeds = ssa_tests::few(seeds).max(2);
    let next = AtomicUsize::new(1);
    let run = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                return;
            }
            let mut calls = command(&agent, "timeout");
            let output = calls
                .arg("120")
                .arg(&executable)
                .args([&seed.to_string(), steps, &tls.port(), &plain.port(), NAME, &pki.ca(), &chain, &key])
                .output()
                .expect("it runs");
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "seed {seed}, {steps} steps: {}\n{said}", output.status);
        }
    };
    // Several at once: what is one's must not be another's.
    thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(run))));
    for map in ["BLOBS", "CONNECTIONS", "CONTEXTS", "LEGS", "LISTENING", "PATHS"] {
        eventually(&format!("nothing is left in {map}"), Duration::from_secs(30), || agent.entries(map) == 0);
    }
    assert_eq!(complaints(), before, "the kernel says so");
    let saw = format!("{} calls, errnos of the contract only", seeds * steps.parse::<usize>().expect("a number"));
    report::fault("application: any calls, threads and children", seeds, &saw, (0, 0), Vec::new());
    let said = python(
        &agent,
        "out(connect(tls(args[0], args[1]), '127.0.0.1', args[2])['result'])",
        &[NAME, &pki.ca(), &tls.port()],
    );
    assert_eq!(said, "ok", "the agent serves on");
}
