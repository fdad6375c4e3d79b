//! Check of lists of application protocols (`TLS_ALPN`).

use ssa_common::limits::HOSTNAME_BYTES;

use crate::{
    ctx::Sockopt,
    repeat::{GO_ON, repeat},
};

/// Checks the value of `TLS_ALPN`, such as `h2,http/1.1`, and returns its length without the NUL.
///
/// Accepted are 1 to 255 bytes with a comma between protocols, none of which is empty (RFC 7301,
/// section 3.1).
#[inline(always)]
pub(crate) fn check(opt: Sockopt) -> Option<u32> {
    let text = text_len(opt)?;
    let mut list = List { opt, starts: 1, bad: 0 };
    repeat(text as u32, character, &mut list);
    let ends = opt.byte(text & (HOSTNAME_BYTES - 1))? == 0;
    (ends && list.bad == 0 && list.starts == 0).then_some(text as u32)
}

/// State of the check of a list.
struct List {
    /// Value that is checked.
    opt: Sockopt,
    /// 1 after a comma, and at the start.
    starts: u32,
    /// 1 once a character is not allowed where it is.
    bad: u32,
}

/// Body of the loop over characters.
extern "C" fn character(index: u32, list: &mut List) -> i64 {
    let byte = list.opt.byte(index as usize & (HOSTNAME_BYTES - 1)).unwrap_or(0);
    let comma = u32::from(byte == b',');
    list.bad |= u32::from(byte == 0) | (comma & list.starts);
    list.starts = comma;
    GO_ON
}

/// Length of the text without its NUL, in bytes; none if it is out of range.
#[inline(always)]
fn text_len(opt: Sockopt) -> Option<usize> {
    let len = opt.len();
    (len >= 2 && len <= HOSTNAME_BYTES as i32).then(|| (len - 1) as usize)
}
