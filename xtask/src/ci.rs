//! `cargo xtask ci`: what CI runs, the same on a laptop.

use anyhow::Result;

use crate::{
    codegen, layers, manifests,
    process::{cargo, check},
    setup, test, vm,
};

pub(crate) fn run() -> Result<()> {
    setup::run(&setup::Args { tests: true })?;
    check(cargo().args(["fmt", "--all", "--check"]))?;
    layers::run()?;
    codegen::run(&codegen::Args { check: true })?;
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
    manifests::run()?;
    test::run(&test::Args::default())?;
    vm::ends()
}
