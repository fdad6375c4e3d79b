//! Cipher suites by number: lists of them as the hooks edit them, and their names.
//!
//! The numbers are the agent's own: from 1, in the order of its OpenSSL's full list. The same name
//! has the same number for as long as the agent lives; a new agent writes them anew.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::pod;

/// Suites that a list can hold, and one more than the highest number of a suite. A power of two, so
/// that the hooks can bound an index by a mask.
pub const CIPHERS: usize = 128;

/// Room for a suite's name without a NUL, in bytes: a multiple of 8.
pub const NAME_BYTES: usize = 40;

/// Suites in order of preference, by number, from 1. Zero ends the list.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct CipherList(pub [u8; CIPHERS]);

impl CipherList {
    /// The empty list.
    pub const EMPTY: Self = Self([0; CIPHERS]);

    /// The numbers before the end.
    pub fn numbers(&self) -> impl Iterator<Item = u8> {
        self.0.into_iter().take_while(|number| *number != 0)
    }
}

/// Set of suites: 1 for each that is in it, by number.
///
/// VERIFIER: bytes, not bits: LLVM makes branches of arithmetic with bits.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct CipherSet(pub [u8; CIPHERS]);

impl CipherSet {
    /// The empty set.
    pub const EMPTY: Self = Self([0; CIPHERS]);

    /// True if a suite is in the set.
    #[inline(always)]
    pub const fn has(&self, number: u8) -> bool {
        self.0[number as usize & (CIPHERS - 1)] != 0
    }

    /// Puts a suite into the set.
    #[inline(always)]
    pub const fn add(&mut self, number: u8) {
        self.0[number as usize & (CIPHERS - 1)] = 1;
    }

    /// Takes a suite out of the set.
    #[inline(always)]
    pub const fn remove(&mut self, number: u8) {
        self.0[number as usize & (CIPHERS - 1)] = 0;
    }
}

/// Name of a suite as OpenSSL writes it: the value of the map `CIPHER_NAMES`, by number. Written by the agent before it
/// lives.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct CipherName {
    /// Text without a NUL, then zeros.
    pub bytes: [u8; NAME_BYTES],
    /// Length of the name, in bytes. Zero: no suite has this number.
    pub len: u32,
    /// Reserved; always zero.
    pub reserved: u32,
}

/// Hash of the empty name: the offset basis of FNV-1a, 64 bits.
pub const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
/// Factor of a name's hash for each byte: the prime of FNV-1a, 64 bits.
pub const HASH_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Hash of a name: the key of the map `CIPHERS` under which its number is found. The agent's own names do not
/// collide; an application that finds another text with the same hash has named that suite.
pub fn hash(name: &[u8]) -> u64 {
    name.iter().fold(HASH_START, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(HASH_PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_has_what_was_added_and_not_removed() {
        let mut set = CipherSet::EMPTY;
        for number in [1, 63, 64, 127] {
            assert!(!set.has(number));
            set.add(number);
            assert!(set.has(number), "{number}");
        }
        assert!(!set.has(2) && !set.has(65));
        set.remove(64);
        assert!(!set.has(64) && set.has(127));
    }
}

pod!(CipherList);
pod!(CipherName);

const _: () = assert!(size_of::<CipherName>() == 48);
const _: () = assert!(CIPHERS == 128);
