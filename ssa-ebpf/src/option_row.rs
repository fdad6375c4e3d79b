//! Look-up of an option's row in the table that applications' header is made from.

use core::hint::black_box;

use ssa_common::option_row::{FIRST, OptionRow, ROWS, TABLE};

/// Row of an option; that of an unknown number offers nothing.
#[inline(always)]
pub(crate) fn option_row(number: i32) -> OptionRow {
    let row = number.wrapping_sub(FIRST) as u32 as usize;
    let row = if row < ROWS { row } else { ROWS - 1 };
    // VERIFIER: LLVM would select between two pointers, one of them out of bounds: "R5 unbounded
    // memory access" (6.18, rustc 1.95). The barrier keeps the index, and the mask bounds it.
    TABLE[black_box(row) & (ROWS - 1)]
}
