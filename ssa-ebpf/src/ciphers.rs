//! The list of cipher suites: set as a whole, or one suite taken off or put in front.
//!
//! VERIFIER: loops without branches, as in `hostname.rs`: sums and products with 0 or 1 instead. Not
//! masks of all ones: at each `&` of one with a constant, Linux 6.18 follows both values as if it were
//! a branch (and dies of a null pointer when these are too many, in `maybe_fork_scalars`).

use core::hint::black_box;
use ssa_common::{
    cipher::{CIPHERS as CIPHERS_MAX, CipherList, CipherSet, HASH_PRIME, HASH_START},
    context::Context,
    limits::{Counter, OPTION_BYTES},
    policy::Policy,
    reason::Reason,
};

use crate::{
    ctx::{Refusal, Sockopt, copy_words, errno},
    maps::{CIPHER_NAMES, CIPHERS, SCRATCH, Scratch, count},
    text,
};

const UNKNOWN: Refusal = Refusal::new(errno::EINVAL, Reason::CipherUnknown);
const WEAKER: Refusal = Refusal::new(errno::EPROTO, Reason::Policy);
const FULL: Refusal = Refusal::new(errno::ENOBUFS, Reason::NoRoom);
const BAD_VALUE: Refusal = Refusal::new(errno::EINVAL, Reason::BadValue);

/// `TLS_DISABLE_CIPHER`.
#[inline(always)]
pub(crate) fn disable(opt: Sockopt, context: &mut Context) -> Result<(), Refusal> {
    let number = named(opt)?;
    if !take_off(&mut context.ciphers, number) {
        return Err(UNKNOWN);
    }
    context.asked.remove(number);
    context.ciphers_set = 1;
    Ok(())
}

/// `TLS_ENABLE_CIPHER`.
#[inline(always)]
pub(crate) fn enable(opt: Sockopt, context: &mut Context, policy: &Policy) -> Result<(), Refusal> {
    let number = named(opt)?;
    if !policy.allowed.has(number) {
        return Err(WEAKER);
    }
    let _was_on = take_off(&mut context.ciphers, number);
    put_first(&mut context.ciphers, number);
    context.asked.add(number);
    context.ciphers_set = 1;
    Ok(())
}

/// `TLS_TRUSTED_CIPHERS`, set. A list with an unknown name changes nothing.
#[inline(always)]
pub(crate) fn set(opt: Sockopt, id: u64, context: &mut Context, policy: &Policy) -> Result<(), Refusal> {
    let len = opt.len();
    if len < 2 || len > OPTION_BYTES as i32 {
        return Err(BAD_VALUE);
    }
    let scratch = scratch(id).ok_or(FULL)?;
    let done = parse(opt, (len - 1) as usize, scratch, context, policy);
    let _absent = SCRATCH.remove(id);
    done
}

#[inline(always)]
fn parse(
    opt: Sockopt,
    len: usize,
    scratch: &mut Scratch,
    context: &mut Context,
    policy: &Policy,
) -> Result<(), Refusal> {
    if !text::copy_in(opt, (&raw mut scratch.bytes).cast(), len) {
        return Err(BAD_VALUE);
    }
    let len = forgotten(scratch, len);
    hash_names(scratch, len);
    // SAFETY: plain memory; volatile, so that it is read again.
    let last = unsafe { (&raw const scratch.number).read_volatile() } as usize;
    if last >= CIPHERS_MAX {
        return Err(UNKNOWN);
    }
    let mut at = 0;
    for name in 0..CIPHERS_MAX {
        if name > last {
            break;
        }
        // SAFETY: numbers are never deleted while the agent lives.
        let number = unsafe { CIPHERS.get(scratch.hashes[name]) }.copied().ok_or(UNKNOWN)? as u8;
        if !policy.allowed.has(number) {
            return Err(WEAKER);
        }
        // Named twice: the next takes its place.
        scratch.list.0[at & (CIPHERS_MAX - 1)] = number;
        let place = (&raw mut scratch.set.0).cast::<u8>();
        // SAFETY: masked to the array's length; volatile, lest it become a branch.
        unsafe {
            let place = place.add(usize::from(number) & (CIPHERS_MAX - 1));
            at += 1 - usize::from(place.read_volatile() & 1);
            place.write_volatile(1);
        }
    }
    scratch.list.0[at & (CIPHERS_MAX - 1)] = 0;
    copy_words::<CipherList, 16>(&raw mut context.ciphers, &raw const scratch.list);
    copy_words::<CipherSet, 16>(&raw mut context.asked, &raw const scratch.set);
    context.ciphers_set = 1;
    Ok(())
}

/// A number of which the verifier knows nothing: else it takes each way out of a loop, on which it
/// knows another one, for another state of all that follows ("BPF program is too large", 6.18).
#[inline(always)]
fn forgotten(scratch: &mut Scratch, number: usize) -> usize {
    let place = &raw mut scratch.number;
    // SAFETY: plain memory of this hook's own.
    unsafe {
        place.write_volatile(number as u64);
        place.read_volatile() as usize
    }
}

/// Hashes the names of a list of `len` bytes, and leaves the index of the last in `number`.
#[inline(always)]
fn hash_names(scratch: &mut Scratch, len: usize) {
    const CHUNK: usize = 64;
    let bytes = (&raw const scratch.bytes).cast::<u8>();
    let hashes = (&raw mut scratch.hashes).cast::<u64>();
    let mut hash = HASH_START;
    let mut name = black_box(0_usize);
    for chunk in (0..OPTION_BYTES).step_by(CHUNK) {
        if chunk >= len {
            break;
        }
        for at in 0..CHUNK {
            // SAFETY: inside the array.
            let byte = u64::from(unsafe { bytes.add(chunk + at).read_volatile() });
            // What follows the text is zero.
            let colon = is_zero(byte ^ u64::from(b':'));
            let nul = is_zero(byte);
            let next = (hash ^ byte).wrapping_mul(HASH_PRIME);
            let other = 1_u64.wrapping_sub(colon).wrapping_sub(nul);
            hash = next
                .wrapping_mul(other)
                .wrapping_add(HASH_START.wrapping_mul(colon))
                .wrapping_add(hash.wrapping_mul(nul));
            name += colon as usize;
            // SAFETY: masked to the array's length.
            unsafe { hashes.add(name & (CIPHERS_MAX - 1)).write_volatile(hash) };
        }
    }
    let _last = forgotten(scratch, name);
}

/// 1 for 0, and 0 for any other byte, without a branch.
#[inline(always)]
fn is_zero(byte: u64) -> u64 {
    black_box(black_box(byte).wrapping_sub(1) >> 63)
}

/// `TLS_TRUSTED_CIPHERS`, read: the names with colons between them. Returns the length with the NUL.
#[inline(always)]
pub(crate) fn get(opt: Sockopt, id: u64, context: &Context) -> Result<i32, i32> {
    let scratch = scratch(id).ok_or(errno::ENOBUFS)?;
    let len = write_names(scratch, context);
    let done = text::copy_out(opt, (&raw const scratch.bytes).cast(), len);
    let _absent = SCRATCH.remove(id);
    if done { Ok(len as i32) } else { Err(errno::EINVAL) }
}

#[inline(always)]
fn write_names(scratch: &mut Scratch, context: &Context) -> usize {
    let bytes = (&raw mut scratch.bytes).cast::<u8>();
    let mut end = 0;
    for slot in 0..CIPHERS_MAX {
        let number = context.ciphers.0[slot];
        if number == 0 {
            break;
        }
        let Some(name) = CIPHER_NAMES.get(u32::from(number) & (CIPHERS_MAX as u32 - 1)) else { break };
        let start = black_box(end) & (OPTION_BYTES - 1);
        for word in 0..ssa_common::cipher::NAME_BYTES / 8 {
            // SAFETY: the start is masked to the value's length, after which there is room for a name.
            unsafe {
                let from = name.bytes.as_ptr().cast::<u64>().add(word).read_volatile();
                bytes.add(start + word * 8).cast::<u64>().write_unaligned(from);
            }
        }
        let colon = (start + (name.len as usize & 63)) & (OPTION_BYTES - 1);
        // SAFETY: masked to the value's length.
        unsafe { bytes.add(colon).write_volatile(b':') };
        end = colon + 1;
    }
    let nul = black_box(end.saturating_sub(1)) & (OPTION_BYTES - 1);
    // SAFETY: masked to the value's length. It takes the place of the last colon.
    unsafe { bytes.add(nul).write_volatile(0) };
    nul + 1
}

/// The suite that the value names.
#[inline(always)]
fn named(opt: Sockopt) -> Result<u8, Refusal> {
    const LONGEST: usize = 64;
    let len = opt.len();
    if len < 2 || len > LONGEST as i32 {
        return Err(if len > LONGEST as i32 { UNKNOWN } else { BAD_VALUE });
    }
    let mut hash = HASH_START;
    let mut nuls = 0;
    for at in 0..LONGEST {
        if at >= (len - 1) as usize {
            break;
        }
        let byte = u64::from(opt.byte(at).ok_or(BAD_VALUE)?);
        nuls |= is_zero(byte);
        hash = (hash ^ byte).wrapping_mul(HASH_PRIME);
    }
    let len = (opt.len() - 1) as usize & (LONGEST - 1);
    if nuls != 0 || opt.byte(len) != Some(0) {
        return Err(BAD_VALUE);
    }
    // SAFETY: as in `parse`.
    unsafe { CIPHERS.get(hash) }.map(|number| *number as u8).ok_or(UNKNOWN)
}

/// Takes a suite off the list; false if it is not on it.
#[inline(always)]
fn take_off(list: &mut CipherList, number: u8) -> bool {
    let slots = (&raw mut list.0).cast::<u8>();
    let mut to = black_box(0_usize);
    for from in 0..CIPHERS_MAX {
        // SAFETY: both inside the array, one by its mask.
        unsafe {
            let here = slots.add(from).read_volatile();
            slots.add(to & (CIPHERS_MAX - 1)).write_volatile(here);
            to += 1 - is_zero(u64::from(here ^ number)) as usize;
        }
    }
    let found = to < CIPHERS_MAX;
    if found {
        list.0[CIPHERS_MAX - 1] = 0;
    }
    found
}

/// Puts a suite before all the others. It is not on the list, which therefore is not full.
#[inline(always)]
fn put_first(list: &mut CipherList, number: u8) {
    let slots = (&raw mut list.0).cast::<u8>();
    let mut carry = number;
    for slot in 0..CIPHERS_MAX {
        // SAFETY: inside the array.
        unsafe {
            let here = slots.add(slot).read_volatile();
            slots.add(slot).write_volatile(carry);
            carry = here;
        }
    }
}

/// Room to work in. The caller gives it back.
#[inline(always)]
fn scratch(id: u64) -> Option<&'static mut Scratch> {
    static EMPTY: Scratch = Scratch {
        bytes: [0; OPTION_BYTES + 64],
        hashes: [0; CIPHERS_MAX],
        list: CipherList::EMPTY,
        set: CipherSet::EMPTY,
        number: 0,
    };
    if SCRATCH.insert(id, &EMPTY, 0).is_err() {
        count(Counter::NoRoom, 1);
        return None;
    }
    // SAFETY: a live value of the map under this socket's id, whose lock is held.
    unsafe { SCRATCH.get_ptr_mut(id)?.as_mut() }
}
