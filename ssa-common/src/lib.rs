//! What crosses a boundary, and nothing else: between the application and the kernel hooks
//! ([`uapi`]), and between the hooks and the agent (all the other modules).
//!
//! Every type here is `#[repr(C)]`, made of fixed-width integers and arrays, without padding and
//! without invalid bit patterns; `zerocopy`'s derives refuse to compile anything else. The two
//! halves must be of one [`ABI_VERSION`].
#![cfg_attr(not(test), no_std)]

pub mod certificate;
pub mod cipher;
pub mod connection;
pub mod context;
pub mod event;
pub mod limits;
pub mod option_row;
pub mod peer_option;
pub mod phase;
pub mod policy;
pub mod reason;
pub mod rule;
pub mod socket;
pub mod steer;
pub mod uapi;

/// Version of everything that the two halves share: map names, keys, values and events.
///
/// It is part of the path under which maps and links are pinned, so an agent never adopts maps of
/// another layout.
pub const ABI_VERSION: u32 = 9;

/// Lets aya copy a type into and out of maps.
macro_rules! pod {
    ($type:ty) => {
        // SAFETY: the type derives zerocopy's FromBytes and IntoBytes, so that it has no padding
        // and every bit pattern is valid.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use pod;
