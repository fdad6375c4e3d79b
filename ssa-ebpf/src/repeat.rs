//! Loops that the verifier follows once, not once for each time: the hooks stay small, and load fast.

use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;

/// Result of a loop's body: the loop goes on.
pub(crate) const GO_ON: i64 = 0;
/// Result of a loop's body: the loop ends.
pub(crate) const STOP: i64 = 1;

/// Calls `body` with 0, 1, ... up to `times`, or until it returns [`STOP`].
///
/// VERIFIER: a number in `state` that is used as an index and begins as a constant is followed through all of
/// its values: let it begin with a zero that is read from a map.
///
/// KERNEL: `bpf_loop` from 5.17.
#[inline(always)]
pub(crate) fn repeat<T>(times: u32, body: extern "C" fn(u32, &mut T) -> i64, state: &mut T) {
    // SAFETY: the kernel calls `body` with `state` before it returns, and with nothing else.
    unsafe { bpf_loop(times, body as *mut c_void, (&raw mut *state).cast(), 0) };
}
