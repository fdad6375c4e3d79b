//! One program for all targets: the environment variable `SSA_FUZZ` names the parser (`ssa_agent::fuzz::TARGETS`).
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ssa_agent::fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("SSA_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().find(|(target, _parse)| *target == name);
    *found.unwrap_or_else(|| panic!("SSA_FUZZ is none of the targets: {name:?}"))
});

fuzz_target!(|bytes: &[u8]| (TARGET.1)(bytes));
