//! Copies values of up to a page between the caller's buffer and a map.

use ssa_common::limits::OPTION_BYTES;

use crate::{
    ctx::Sockopt,
    repeat::{GO_ON, STOP, repeat},
};

/// State of a copy.
struct Copy {
    /// Context with the caller's buffer.
    opt: Sockopt,
    /// Value in a map.
    at: *mut u8,
    /// First index in the map's value.
    start: usize,
    /// First index in the caller's buffer.
    put_start: usize,
    /// Not zero if there was a NUL, or no room.
    bad: u64,
}

/// Copies a text of `len` bytes, without its NUL, to `to`, which has room for `OPTION_BYTES`, is
/// aligned to 8, and is zero. False if it is not one text with one NUL at its end.
#[inline(always)]
pub(crate) fn copy_in(opt: Sockopt, to: *mut u8, len: usize) -> bool {
    let mut copy = Copy { opt, at: to, start: 0, put_start: 0, bad: 0 };
    repeat(len as u32 / 8, take_word, &mut copy);
    copy.start = len & !7;
    repeat(len as u32 & 7, take_byte::<OPTION_BYTES>, &mut copy);
    copy.bad == 0 && opt.byte(len & (OPTION_BYTES - 1)) == Some(0)
}

/// Copies the first `len` bytes of the value to `to`. False if it is shorter.
#[inline(always)]
pub(crate) fn copy_text_in<const ROOM: usize>(opt: Sockopt, to: &mut [u8; ROOM], len: u32) -> bool {
    let mut copy = Copy { opt, at: to.as_mut_ptr(), start: 0, put_start: 0, bad: 0 };
    repeat(len, take_byte::<ROOM>, &mut copy);
    copy.bad == 0
}

/// Copies `len` bytes of `from`, which has room for `OPTION_BYTES` and is aligned to 8. False, and
/// nothing that counts is written, if the buffer is too small.
#[inline(always)]
pub(crate) fn copy_out(opt: Sockopt, from: *const u8, len: usize) -> bool {
    if opt.len() < len as i32 || len > OPTION_BYTES {
        return false;
    }
    let mut copy = Copy { opt, at: from.cast_mut(), start: 0, put_start: 0, bad: 0 };
    repeat(len as u32 / 8, put_word, &mut copy);
    copy.start = len & !7;
    copy.put_start = copy.start;
    repeat(len as u32 & 7, put_byte::<OPTION_BYTES>, &mut copy);
    copy.bad == 0
}

/// Copies `len` bytes of `bytes`, from `start` on. False if the buffer is too small.
#[inline(always)]
pub(crate) fn copy_text<const ROOM: usize>(opt: Sockopt, bytes: &[u8; ROOM], start: u16, len: u32) -> bool {
    if opt.len() < len as i32 {
        return false;
    }
    let mut copy = Copy { opt, at: bytes.as_ptr().cast_mut(), start: usize::from(start), put_start: 0, bad: 0 };
    repeat(len, put_byte::<ROOM>, &mut copy);
    copy.bad == 0
}

/// Body of a loop: copies 8 bytes from the buffer.
extern "C" fn take_word(index: u32, copy: &mut Copy) -> i64 {
    let at = (index as usize * 8) & (OPTION_BYTES - 8);
    let Some(value) = copy.opt.word(at) else { return short(copy) };
    // SAFETY: masked to the room.
    unsafe { copy.at.add(at).cast::<u64>().write_volatile(value) };
    copy.bad |= zero_bytes(value);
    GO_ON
}

/// Body of a loop: copies a byte from the buffer.
extern "C" fn take_byte<const ROOM: usize>(index: u32, copy: &mut Copy) -> i64 {
    let at = (copy.start + index as usize) & (ROOM - 1);
    let Some(value) = copy.opt.byte(at) else { return short(copy) };
    // SAFETY: masked to the room.
    unsafe { copy.at.add(at).write_volatile(value) };
    copy.bad |= u64::from(value == 0);
    GO_ON
}

/// Body of a loop: copies 8 bytes to the buffer.
extern "C" fn put_word(index: u32, copy: &mut Copy) -> i64 {
    let at = (index as usize * 8) & (OPTION_BYTES - 8);
    // SAFETY: masked to the room.
    let value = unsafe { copy.at.add(at).cast::<u64>().read_volatile() };
    if copy.opt.put(at, value) { GO_ON } else { short(copy) }
}

/// Body of a loop: copies a byte to the buffer.
extern "C" fn put_byte<const ROOM: usize>(index: u32, copy: &mut Copy) -> i64 {
    let from = (copy.start + index as usize) & (ROOM - 1);
    let to = (copy.put_start + index as usize) & (OPTION_BYTES - 1);
    // SAFETY: masked to the room.
    let value = unsafe { copy.at.add(from).read_volatile() };
    if copy.opt.put(to, value) { GO_ON } else { short(copy) }
}

/// Ends a loop as the buffer is too short.
fn short(copy: &mut Copy) -> i64 {
    copy.bad = 1;
    STOP
}

/// Not zero if one of a word's bytes is zero.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080
}
