//! The list of cipher suites: set as a whole, or one suite taken off or put in front.

use ssa_common::{
    cipher::{CIPHERS as CIPHERS_MAX, CipherList, CipherSet, HASH_PRIME, HASH_START},
    context::Context,
    limits::{Counter, OPTION_BYTES},
    policy::Policy,
    reason::Reason,
};

use crate::{
    ctx::{Sockopt, copy_words},
    maps::{CIPHER_NAMES, CIPHERS, SCRATCH, Scratch, count},
    refusal::{BAD_VALUE, NO_ROOM, Refusal, WEAKER, errno},
    repeat::{GO_ON, STOP, repeat},
    text,
};

/// `EINVAL`: no suite of that name, or none that is on the list.
const CIPHER_UNKNOWN: Refusal = Refusal::new(errno::EINVAL, Reason::CipherUnknown);

/// `TLS_DISABLE_CIPHER`.
#[inline(always)]
pub(crate) fn disable(opt: Sockopt, context: &mut Context, zero: u64) -> Result<(), Refusal> {
    let number = suite_named(opt)?;
    if !remove(&mut context.ciphers, number, zero) {
        return Err(CIPHER_UNKNOWN);
    }
    context.asked.remove(number);
    context.ciphers_set = 1;
    Ok(())
}

/// `TLS_ENABLE_CIPHER`.
#[inline(always)]
pub(crate) fn enable(opt: Sockopt, context: &mut Context, policy: &Policy, zero: u64) -> Result<(), Refusal> {
    let number = suite_named(opt)?;
    if !policy.allowed.has(number) {
        return Err(WEAKER);
    }
    let _was_on = remove(&mut context.ciphers, number, zero);
    prepend(&mut context.ciphers, number);
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
    let scratch = scratch(id).ok_or(NO_ROOM)?;
    let done = parse(opt, (len - 1) as usize, scratch, context, policy);
    let _absent = SCRATCH.remove(id);
    done
}

/// Reads a list, and puts it into the context if all its suites are allowed.
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
    let mut names = Names {
        bytes: &raw const scratch.bytes,
        hashes: &raw mut scratch.hashes,
        hash: HASH_START,
        name: zero(scratch),
    };
    repeat(len as u32, hash_character, &mut names);
    if names.name >= CIPHERS_MAX as u64 {
        return Err(CIPHER_UNKNOWN);
    }
    let at = zero(scratch);
    let mut list = List { scratch, policy, at, refusal: NONE };
    repeat(names.name as u32 + 1, list_name, &mut list);
    match list.refusal {
        NONE => {}
        NOT_KNOWN => return Err(CIPHER_UNKNOWN),
        _ => return Err(WEAKER),
    }
    let scratch = list.scratch;
    scratch.list.0[list.at as usize & (CIPHERS_MAX - 1)] = 0;
    copy_words::<CipherList, 16>(&raw mut context.ciphers, &raw const scratch.list);
    copy_words::<CipherSet, 16>(&raw mut context.asked, &raw const scratch.set);
    context.ciphers_set = 1;
    Ok(())
}

/// Zero that the verifier does not know, as an index begins.
#[inline(always)]
fn zero(scratch: &Scratch) -> u64 {
    // SAFETY: plain memory; volatile, lest LLVM find out.
    unsafe { (&raw const scratch.zero).read_volatile() }
}

/// State of reading a list of names with colons between them.
struct Names {
    /// Text of the list.
    bytes: *const [u8; OPTION_BYTES + 64],
    /// Hashes of the names, by index.
    hashes: *mut [u64; CIPHERS_MAX],
    /// Hash of the name that is being read.
    hash: u64,
    /// Index of that name.
    name: u64,
}

/// Body of a loop: adds a character to the hash of its name.
extern "C" fn hash_character(index: u32, names: &mut Names) -> i64 {
    // SAFETY: masked to the value's length.
    let byte = unsafe { names.bytes.cast::<u8>().add(index as usize & (OPTION_BYTES - 1)).read_volatile() };
    if byte == b':' {
        names.hash = HASH_START;
        names.name += 1;
    } else {
        names.hash = (names.hash ^ u64::from(byte)).wrapping_mul(HASH_PRIME);
    }
    // SAFETY: masked to the array's length.
    unsafe { names.hashes.cast::<u64>().add(names.name as usize & (CIPHERS_MAX - 1)).write_volatile(names.hash) };
    GO_ON
}

/// State of making a list of numbers from hashes.
struct List<'a> {
    /// Hashes, and the list.
    scratch: &'a mut Scratch,
    /// Suites that are allowed.
    policy: &'a Policy,
    /// Next slot of the list.
    at: u64,
    /// [`NONE`], or why the list is refused.
    refusal: u64,
}

/// [`List::refusal`]: the list is good so far.
const NONE: u64 = 0;
/// [`List::refusal`]: a name is of no suite.
const NOT_KNOWN: u64 = 1;
/// [`List::refusal`]: the policy does not allow a suite.
const NOT_ALLOWED: u64 = 2;

/// Body of a loop: puts the suite with the next hash on the list.
extern "C" fn list_name(index: u32, list: &mut List<'_>) -> i64 {
    let hash = list.scratch.hashes[index as usize & (CIPHERS_MAX - 1)];
    // SAFETY: numbers are never deleted while the agent lives.
    let Some(number) = (unsafe { CIPHERS.get(hash) }) else {
        list.refusal = NOT_KNOWN;
        return STOP;
    };
    let number = *number as u8;
    if !list.policy.allowed.has(number) {
        list.refusal = NOT_ALLOWED;
        return STOP;
    }
    if !list.scratch.set.has(number) {
        list.scratch.set.add(number);
        list.scratch.list.0[list.at as usize & (CIPHERS_MAX - 1)] = number;
        list.at += 1;
    }
    GO_ON
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

/// Writes the names of a context's list; returns the length with the NUL, in bytes.
#[inline(always)]
fn write_names(scratch: &mut Scratch, context: &Context) -> usize {
    let mut text = NameText { bytes: &raw mut scratch.bytes, list: &context.ciphers, end: zero(scratch) };
    repeat(CIPHERS_MAX as u32, write_name, &mut text);
    let nul = (text.end as usize).saturating_sub(1) & (OPTION_BYTES - 1);
    // SAFETY: masked to the value's length. It takes the place of the last colon.
    unsafe { text.bytes.cast::<u8>().add(nul).write_volatile(0) };
    nul + 1
}

/// State of writing names with a colon after each.
struct NameText<'a> {
    /// Text of the list.
    bytes: *mut [u8; OPTION_BYTES + 64],
    /// Numbers of the suites.
    list: &'a CipherList,
    /// Length of the text so far, in bytes.
    end: u64,
}

/// Body of a loop: writes the name of the next suite.
extern "C" fn write_name(slot: u32, text: &mut NameText<'_>) -> i64 {
    let number = text.list.0[slot as usize & (CIPHERS_MAX - 1)];
    let name = CIPHER_NAMES.get(u32::from(number) & (CIPHERS_MAX as u32 - 1));
    let Some(name) = name.filter(|_name| number != 0) else { return STOP };
    let bytes = text.bytes.cast::<u8>();
    let start = text.end as usize & (OPTION_BYTES - 1);
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
    text.end = colon as u64 + 1;
    GO_ON
}

/// Number of the suite that the value names. `EINVAL` if there is none.
#[inline(always)]
fn suite_named(opt: Sockopt) -> Result<u8, Refusal> {
    const LONGEST: usize = 64;
    let len = opt.len();
    if len < 2 || len > LONGEST as i32 {
        return Err(if len > LONGEST as i32 { CIPHER_UNKNOWN } else { BAD_VALUE });
    }
    let mut name = OneName { opt, hash: HASH_START, nuls: 0 };
    repeat(len as u32 - 1, hash_value, &mut name);
    if name.nuls != 0 || opt.byte((len - 1) as usize & (LONGEST - 1)) != Some(0) {
        return Err(BAD_VALUE);
    }
    // SAFETY: as in `list_name`.
    unsafe { CIPHERS.get(name.hash) }.map(|number| *number as u8).ok_or(CIPHER_UNKNOWN)
}

/// State of reading a value that is one name.
struct OneName {
    /// Value that is read.
    opt: Sockopt,
    /// Hash of the characters so far.
    hash: u64,
    /// 1 once one of them is a NUL.
    nuls: u64,
}

/// Body of a loop: adds a character to the hash.
extern "C" fn hash_value(index: u32, name: &mut OneName) -> i64 {
    let byte = name.opt.byte(index as usize & (OPTION_BYTES - 1)).unwrap_or(0);
    name.nuls |= u64::from(byte == 0);
    name.hash = (name.hash ^ u64::from(byte)).wrapping_mul(HASH_PRIME);
    GO_ON
}

/// Takes a suite off the list; false if it is not on it.
#[inline(always)]
fn remove(list: &mut CipherList, number: u8, zero: u64) -> bool {
    let mut shift = Shift { list, number, to: zero };
    repeat(CIPHERS_MAX as u32, shift_left, &mut shift);
    let found = shift.to < CIPHERS_MAX as u64;
    if found {
        shift.list.0[CIPHERS_MAX - 1] = 0;
    }
    found
}

/// State of moving suites of a list to other slots.
struct Shift<'a> {
    /// List that is changed.
    list: &'a mut CipherList,
    /// Suite that is taken off, or that the next slot gets.
    number: u8,
    /// Slot that the next suite to stay gets.
    to: u64,
}

/// Body of a loop: closes the gap of a suite that is taken off.
extern "C" fn shift_left(from: u32, shift: &mut Shift<'_>) -> i64 {
    let here = shift.list.0[from as usize & (CIPHERS_MAX - 1)];
    shift.list.0[shift.to as usize & (CIPHERS_MAX - 1)] = here;
    shift.to += u64::from(here != shift.number);
    GO_ON
}

/// Puts a suite before all the others. It is not on the list, which therefore is not full.
#[inline(always)]
fn prepend(list: &mut CipherList, number: u8) {
    repeat(CIPHERS_MAX as u32, shift_right, &mut Shift { list, number, to: 0 });
}

/// Body of a loop: makes room at the front.
extern "C" fn shift_right(slot: u32, shift: &mut Shift<'_>) -> i64 {
    let slot = &mut shift.list.0[slot as usize & (CIPHERS_MAX - 1)];
    shift.number = core::mem::replace(slot, shift.number);
    GO_ON
}

/// Makes the socket's entry of [`SCRATCH`], of zeros. The caller deletes it. Full: counted, none.
#[inline(always)]
fn scratch(id: u64) -> Option<&'static mut Scratch> {
    static EMPTY: Scratch = Scratch {
        bytes: [0; OPTION_BYTES + 64],
        hashes: [0; CIPHERS_MAX],
        list: CipherList::EMPTY,
        set: CipherSet::EMPTY,
        zero: 0,
    };
    if SCRATCH.insert(id, &EMPTY, 0).is_err() {
        count(Counter::NoRoom, 1);
        return None;
    }
    // SAFETY: a live value of the map under this socket's id, whose lock is held.
    unsafe { SCRATCH.get_ptr_mut(id)?.as_mut() }
}
