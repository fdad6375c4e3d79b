//! The row of the option table for an option's number.

use core::hint::black_box;

use ssa_common::rule::{self, Rule};

/// The rule of an option; that of an unknown number offers nothing.
#[inline(always)]
pub(crate) fn rule_of(number: i32) -> Rule {
    let row = number.wrapping_sub(rule::FIRST) as u32 as usize;
    let row = if row < rule::ROWS { row } else { rule::ROWS - 1 };
    // VERIFIER: LLVM would select between two pointers, one of them out of bounds: "R5 unbounded
    // memory access" (6.18, rustc 1.95). The barrier keeps the index, and the mask bounds it.
    rule::RULES[black_box(row) & (rule::ROWS - 1)]
}
