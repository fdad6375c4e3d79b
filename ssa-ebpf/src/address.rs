//! Reads of addresses and other fields of a hook's context, for both eBPF objects.
//!
//! VERIFIER: every field is read alone and volatile. Otherwise LLVM merges neighbours, and the verifier refuses
//! ("invalid bpf_context access", "dereference of modified ctx ptr").

/// Address family IPv4 (`include/linux/socket.h`).
pub(crate) const AF_INET: u32 = 2;

/// Reads one field of a kernel structure: `read!(pointer, field)`.
macro_rules! read {
    ($pointer:expr, $field:ident) => {{
        let pointer = $pointer;
        // SAFETY: the kernel's context and socket outlive the hook; the verifier checks the offset.
        unsafe { core::ptr::read_volatile(&raw const (*pointer).$field) }
    }};
}

/// Reads the four words of an IPv6 address in a kernel structure, network byte order: `read_words!(pointer, field)`.
macro_rules! read_words {
    ($pointer:expr, $field:ident) => {{
        let pointer = $pointer;
        let mut words = [0_u32; 4];
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: as `read!`.
            *word = unsafe { core::ptr::read_volatile(&raw const (*pointer).$field[index]) };
        }
        words
    }};
}
pub(crate) use {read, read_words};

/// An IPv4 address, network byte order, as v4-mapped IPv6.
#[inline(always)]
pub(crate) const fn mapped(addr: u32) -> [u8; 16] {
    bytes([0, 0, 0xffff_u32.to_be(), addr])
}

/// The bytes of an address that a context gives in four words of network byte order.
#[inline(always)]
pub(crate) const fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are plain data of 16 bytes.
    unsafe { core::mem::transmute(words) }
}
