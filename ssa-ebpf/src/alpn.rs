//! Which lists of application protocols are accepted.
//!
//! VERIFIER: sums instead of branches, as in `hostname.rs`.

use core::hint::black_box;
use ssa_common::limits::HOSTNAME_BYTES;

use crate::ctx::Sockopt;

/// Checks the value of `TLS_ALPN`, such as `h2,http/1.1`, and returns its length without the NUL.
///
/// Accepted are 1 to 255 bytes with a comma between protocols, none of which is empty (RFC 7301,
/// section 3.1).
#[inline(always)]
pub(crate) fn check(opt: Sockopt) -> Option<u32> {
    let text = text_len(opt)?;
    // 1 after a comma, and at the start.
    let mut starts = black_box(1_u32);
    let (mut empty, mut nuls) = (0_u32, 0_u32);
    for index in 0..HOSTNAME_BYTES - 1 {
        if index >= text {
            break;
        }
        let byte = u32::from(opt.byte(index)?);
        let comma = is_zero(byte ^ u32::from(b','));
        nuls += is_zero(byte);
        empty += comma * starts;
        starts = comma;
    }
    // Read again: each way out of the loop knows another length.
    let text = text_len(opt)?;
    let ends = opt.byte(text & (HOSTNAME_BYTES - 1))? == 0;
    (ends && nuls == 0 && empty == 0 && starts == 0).then_some(text as u32)
}

#[inline(always)]
fn text_len(opt: Sockopt) -> Option<usize> {
    let len = opt.len();
    (len >= 2 && len <= HOSTNAME_BYTES as i32).then(|| (len - 1) as usize)
}

/// 1 for 0, and 0 for any other byte, without a branch.
#[inline(always)]
fn is_zero(byte: u32) -> u32 {
    black_box(black_box(byte).wrapping_sub(1) >> 31)
}
