//! Copies values of up to a page between the caller's buffer and a map.

use core::hint::black_box;
use ssa_common::limits::OPTION_BYTES;

use crate::ctx::Sockopt;

/// Copies a text of `len` bytes, without its NUL, to `to`, which has room for `OPTION_BYTES`, is
/// aligned to 8, and is zero. False if it is not one text with one NUL at its end.
#[inline(always)]
pub(crate) fn copy_in(opt: Sockopt, to: *mut u8, len: usize) -> bool {
    let mut zeros = 0;
    for start in (0..OPTION_BYTES).step_by(8) {
        // VERIFIER: one way out of the loop, and no other branch in it: 512 times two are too many.
        // The barriers keep LLVM from making a branch of the mask.
        let Some(value) = opt.word(start) else { break };
        let outside = (black_box(black_box(len as i64 - start as i64 - 8) >> 63)) as u64;
        // SAFETY: inside the room, which is aligned to 8. What is not the text's stays zero.
        unsafe { to.add(start).cast::<u64>().write_volatile(value & !outside) };
        zeros |= zero_bytes(value) & !outside;
    }
    // VERIFIER: read again, because the way out of the loop says something of the length.
    let len = (opt.len() - 1) as usize;
    let tail = len & (OPTION_BYTES - 8);
    for index in 0..8 {
        let at = (tail + index) & (OPTION_BYTES - 1);
        if at >= len {
            break;
        }
        let Some(value) = opt.byte(at) else { break };
        zeros |= zero_bytes(u64::from(value) | !0xff);
        // SAFETY: masked to the room's length.
        unsafe { to.add(at).write_volatile(value) };
    }
    zeros == 0 && opt.byte(len & (OPTION_BYTES - 1)) == Some(0)
}

/// Copies `len` bytes of `from`, which has room for `OPTION_BYTES` and is aligned to 8. False, and
/// nothing that counts is written, if the buffer is too small.
#[inline(always)]
pub(crate) fn copy_out(opt: Sockopt, from: *const u8, len: usize) -> bool {
    if opt.len() < len as i32 || len > OPTION_BYTES {
        return false;
    }
    for start in (0..OPTION_BYTES).step_by(8) {
        if start + 8 > len {
            break;
        }
        // SAFETY: inside the room.
        let value = unsafe { from.add(start).cast::<u64>().read_volatile() };
        if !opt.put(start, value) {
            return false;
        }
    }
    // VERIFIER: each way out of the loop knows another length.
    let len = black_box(len);
    let tail = len & (2 * OPTION_BYTES - 8);
    for index in 0..8 {
        let at = tail + index;
        if at >= len || at >= OPTION_BYTES {
            break;
        }
        // SAFETY: compared with the room's length.
        let value = unsafe { from.add(at & (OPTION_BYTES - 1)).read_volatile() };
        if !opt.put(at & (OPTION_BYTES - 1), value) {
            return false;
        }
    }
    true
}

/// Not zero if one of a word's bytes is.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080
}
