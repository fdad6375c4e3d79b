//! `cargo xtask ci`: what CI runs, the same on a laptop.

use std::process::Command;

use anyhow::Result;

use crate::{
    codegen, layers, manifests,
    process::{cargo, check, root},
    setup, test, vm,
};

/// Parses every Python file of the tests; fails at the first that is none.
const PARSE: &str = "import ast, pathlib, sys
for path in sorted(pathlib.Path('tests').rglob('*.py')):
    ast.parse(path.read_text(), str(path))";

pub(crate) fn run() -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    check(cargo().args(["fmt", "--all", "--check"]))?;
    layers::run()?;
    check(cargo().args(["clippy", "--locked", "--release", "--all-targets", "--", "-D", "warnings"]))?;
    check(
        cargo()
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", "")
            .args(["clippy", "--locked", "--release", "--package", "ssa-ebpf"])
            .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--", "-D", "warnings"]),
    )?;
    check(cargo().env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--locked",
        "--release",
        "--no-deps",
        "--document-private-items",
    ]))?;
    check(Command::new("python3").current_dir(root()).args(["-c", PARSE]))?;
    manifests::run()?;
    // Builds the agent, as the tests do that come next.
    codegen::run(&codegen::Args { check: true })?;
    test::run(&test::Args::default())?;
    vm::ends()
}
