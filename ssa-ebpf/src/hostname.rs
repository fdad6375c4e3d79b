//! Check of host names (`TLS_HOSTNAME`): stricter than OpenSSL, which takes an empty name for "no check",
//! a leading dot for every subdomain, and odd spellings of addresses.

use ssa_common::limits::{HOSTNAME_BYTES, HOSTNAME_MAX, LABEL_MAX};

use crate::{
    ctx::Sockopt,
    repeat::{GO_ON, STOP, repeat},
};

/// Checks the value of `TLS_HOSTNAME` and returns the name's length, without the NUL.
///
/// Accepted are names of letters, digits, `-` and `_` in labels of 1 to 63, 253 characters in all,
/// with or without a dot at the end; IPv4 addresses in their one usual form; and what may be an
/// IPv6 address, which the agent parses. A name whose last label is a number is an address or
/// nothing (URL standard, "ends in a number").
#[inline(always)]
pub(crate) fn check(opt: Sockopt) -> Option<u32> {
    let text = text_len(opt)?;
    let mut name = Name {
        opt,
        state: 0,
        label_len: 0,
        ended: EMPTY,
        labels: 0,
        octets: 0,
        empty: 0,
        colons: 0,
        not_hex: 0,
        bad: 0,
    };
    repeat(text as u32, character, &mut name);
    let Name { state, ended, labels, octets, empty, colons, not_hex, bad, .. } = name;
    if bad != 0 || opt.byte(text & (HOSTNAME_BYTES - 1))? != 0 {
        return None;
    }
    if colons != 0 {
        return (colons >= 2 && not_hex == 0 && text <= IPV6_TEXT_MAX).then_some(text as u32);
    }
    let last = u32::from(state_of(state).flags);
    let ends_with_dot = last & EMPTY != 0;
    if ends_with_dot {
        // Nothing but the dot, two dots, or an address with a dot after it.
        if empty != 0 || ended & NUMERIC != 0 || text > HOSTNAME_MAX + 1 {
            return None;
        }
    } else {
        if empty != 0 || text > HOSTNAME_MAX {
            return None;
        }
        if last & NUMERIC != 0 && (labels != 3 || octets + (last & OCTET) != 4) {
            return None;
        }
    }
    Some(text as u32)
}

/// State of the check of a name. Counts are of the characters so far.
struct Name {
    /// Value that is checked.
    opt: Sockopt,
    /// Row of [`STATES`].
    state: u32,
    /// Flags of the last label that a dot has ended.
    ended: u32,
    /// Length of the label that goes on.
    label_len: u32,
    /// Count of labels that a dot has ended.
    labels: u32,
    /// Count of those that are a number from 0 to 255.
    octets: u32,
    /// [`EMPTY`] once a label was empty.
    empty: u32,
    /// Count of colons.
    colons: u32,
    /// 1 once a character is neither a hexadecimal digit, nor a dot or colon.
    not_hex: u32,
    /// 1 once a character is allowed in no name, or a label is too long.
    bad: u32,
}

/// Body of the loop over characters.
extern "C" fn character(index: u32, name: &mut Name) -> i64 {
    let Some(byte) = name.opt.byte(index as usize & (HOSTNAME_BYTES - 1)) else {
        name.bad = 1;
        return STOP;
    };
    let class = class_of(byte);
    let flags = u32::from(state_of(name.state).flags);
    if class.dot != 0 {
        name.labels += 1;
        name.octets += flags & OCTET;
        name.empty |= flags & EMPTY;
        name.ended = flags;
    }
    name.colons += u32::from(class.colon);
    name.not_hex |= u32::from(class.not_hex);
    name.label_len = if class.in_label != 0 { name.label_len + 1 } else { 0 };
    name.bad |= u32::from(class.bad) | u32::from(name.label_len > LABEL_MAX);
    name.state = u32::from(state_of(name.state).next[usize::from(class.column & 15)]);
    GO_ON
}

/// Length of the text without its NUL, in bytes; none if it can't be a name at all.
#[inline(always)]
fn text_len(opt: Sockopt) -> Option<usize> {
    let len = opt.len();
    (len >= 2 && len <= HOSTNAME_BYTES as i32).then(|| (len - 1) as usize)
}

/// Longest text of an IPv6 address (`INET6_ADDRSTRLEN` without the NUL).
const IPV6_TEXT_MAX: usize = 45;

/// Flag of a label: a number from 0 to 255 in its shortest form.
const OCTET: u32 = 1;
/// Flag of a label: digits only.
const NUMERIC: u32 = 2;
/// Flag of a label: no character yet.
const EMPTY: u32 = 4;

/// Class of a character. Fields are 0 or 1, but for the column of the table of states.
#[derive(Clone, Copy)]
struct Class {
    /// Column of [`STATES`].
    column: u8,
    /// A dot.
    dot: u8,
    /// A colon.
    colon: u8,
    /// A character of labels.
    in_label: u8,
    /// Not of IPv6 addresses.
    not_hex: u8,
    /// Of no name.
    bad: u8,
}

/// Row of [`STATES`]: a kind of label, and the kind that a character of each column makes of it.
#[derive(Clone, Copy)]
struct State {
    /// Flags of such a label.
    flags: u8,
    /// Rows to go to, by column.
    next: [u8; 16],
}

/// Class of a character.
#[inline(always)]
fn class_of(byte: u8) -> Class {
    CLASSES[usize::from(byte)]
}

/// Row of a state.
#[inline(always)]
fn state_of(state: u32) -> State {
    STATES[(state & 15) as usize]
}

/// Classes by character.
static CLASSES: [Class; 256] = {
    let mut classes = [Class { column: SEPARATOR, dot: 0, colon: 0, in_label: 0, not_hex: 1, bad: 1 }; 256];
    let mut byte = 0;
    while byte < 256 {
        let (column, not_hex) = match byte as u8 {
            b'0' => (0, 0),
            b'1' => (1, 0),
            b'2' => (2, 0),
            b'3' | b'4' => (3, 0),
            b'5' => (4, 0),
            b'6'..=b'9' => (5, 0),
            b'a'..=b'f' | b'A'..=b'F' => (LETTER, 0),
            b'g'..=b'z' | b'G'..=b'Z' | b'-' | b'_' => (LETTER, 1),
            _ => (SEPARATOR, 1),
        };
        if column != SEPARATOR {
            classes[byte] = Class { column, dot: 0, colon: 0, in_label: 1, not_hex, bad: 0 };
        }
        byte += 1;
    }
    let separator = Class { column: SEPARATOR, dot: 0, colon: 0, in_label: 0, not_hex: 0, bad: 0 };
    classes[b'.' as usize] = Class { dot: 1, ..separator };
    classes[b':' as usize] = Class { colon: 1, ..separator };
    classes
};

/// Column of letters. Before it are those of digits: 0, 1, 2, 3 and 4, 5, 6 to 9.
const LETTER: u8 = 6;
/// Column of dots, colons and all other characters.
const SEPARATOR: u8 = 7;

/// Rows of [`STATES`].
mod row {
    /// No character yet.
    pub(super) const START: u8 = 0;
    /// A label with a letter.
    pub(super) const TEXT: u8 = 1;
    /// Digits, but no octet.
    pub(super) const NUMBER: u8 = 2;
    /// The digit 0.
    pub(super) const ZERO: u8 = 3;
    /// The digit 1.
    pub(super) const ONE: u8 = 4;
    /// The digit 2.
    pub(super) const TWO: u8 = 5;
    /// One of the digits 3 to 9.
    pub(super) const THREE_TO_NINE: u8 = 6;
    /// 10 to 24, and what any digit may follow.
    pub(super) const TWO_DIGITS: u8 = 7;
    /// The digits 25.
    pub(super) const TWENTY_FIVE: u8 = 8;
    /// An octet that no digit may follow.
    pub(super) const FULL: u8 = 9;
}

/// Kinds of labels, by [`row`].
static STATES: [State; 16] = {
    use row::*;
    let number = OCTET as u8 | NUMERIC as u8;
    let unused = State { flags: 0, next: [TEXT; 16] };
    let mut states = [unused; 16];
    states[START as usize] = digits(EMPTY as u8, [ZERO, ONE, TWO, THREE_TO_NINE, THREE_TO_NINE, THREE_TO_NINE]);
    states[TEXT as usize] = digits(0, [TEXT; 6]);
    states[NUMBER as usize] = digits(NUMERIC as u8, [NUMBER; 6]);
    states[ZERO as usize] = digits(number, [NUMBER; 6]);
    states[ONE as usize] = digits(number, [TWO_DIGITS; 6]);
    states[TWO as usize] = digits(number, [TWO_DIGITS, TWO_DIGITS, TWO_DIGITS, TWO_DIGITS, TWENTY_FIVE, FULL]);
    states[THREE_TO_NINE as usize] = digits(number, [FULL; 6]);
    states[TWO_DIGITS as usize] = digits(number, [FULL; 6]);
    states[TWENTY_FIVE as usize] = digits(number, [FULL, FULL, FULL, FULL, FULL, NUMBER]);
    states[FULL as usize] = digits(number, [NUMBER; 6]);
    states
};

/// Makes a row of where its digits lead; a letter makes a text of it, a separator ends the label.
const fn digits(flags: u8, digits: [u8; 6]) -> State {
    let mut next = [row::TEXT; 16];
    let mut column = 0;
    while column < 6 {
        next[column] = digits[column];
        column += 1;
    }
    next[SEPARATOR as usize] = row::START;
    State { flags, next }
}
