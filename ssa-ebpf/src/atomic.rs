//! Atomic operations on map values. `core::sync::atomic` has none for this target, whose oldest
//! processors lacked them; we build for `-C target-cpu=v3`.
//!
//! KERNEL: fetching and comparing atomics from 5.12.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

/// Adds to a counter.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, change: u64) {
    // SAFETY: callers pass a live, aligned map value.
    let _before = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, change) };
}

/// Adds to a counter, and returns the value before.
#[inline(always)]
pub(crate) fn fetch_add(counter: *mut u64, change: u64) -> u64 {
    // SAFETY: as `add`.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, change) }
}

/// Reference count that, once it is zero, stays zero.
#[derive(Clone, Copy)]
pub(crate) struct Refs(*mut u32);

impl Refs {
    /// Wraps a count: `count` must point to a live, aligned map value.
    #[inline(always)]
    pub(crate) fn new(count: *mut u32) -> Self {
        Self(count)
    }

    /// Takes a reference; false if there is none left. Gives up, as if there were none, when many others are faster.
    #[inline(always)]
    pub(crate) fn acquire(self) -> bool {
        for _try in 0..64 {
            // SAFETY: see `new`.
            let now = unsafe { self.0.read_volatile() };
            if now == 0 {
                return false;
            }
            // SAFETY: see `new`.
            let (_found, done) = unsafe {
                atomic_cxchg::<u32, { AtomicOrdering::Relaxed }, { AtomicOrdering::Relaxed }>(self.0, now, now + 1)
            };
            if done {
                return true;
            }
        }
        false
    }

    /// Gives a reference back; true for the last.
    ///
    /// Not relaxed: for that, LLVM 22 makes an addition that fetches nothing, and then compares the
    /// operand as if it were the result.
    #[inline(always)]
    pub(crate) fn release(self) -> bool {
        // SAFETY: see `new`.
        unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(self.0, u32::MAX) == 1 }
    }
}
