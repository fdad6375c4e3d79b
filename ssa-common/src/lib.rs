//! Types that cross a boundary, and nothing else: between the application and the kernel hooks
//! ([`uapi`]), and between the hooks and the agent (all the other modules).
//!
//! Every type here is `#[repr(C)]`, made of fixed-width integers and arrays, without padding and
//! without invalid bit patterns; `zerocopy`'s derives refuse to compile anything else. The two
//! halves must be of one [`ABI_VERSION`].
#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]

pub mod certificate;
pub mod cgroup;
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
pub const ABI_VERSION: u32 = 11;

/// Implements `aya::Pod`, by which aya copies a type into and out of maps.
macro_rules! pod {
    ($type:ty) => {
        // SAFETY: the type derives zerocopy's FromBytes and IntoBytes, so that it has no padding
        // and every bit pattern is valid.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use pod;

/// Defines a number that crosses a boundary as a type of its own: the bytes of the integer, and a name for each value.
///
/// Any bit pattern is a valid value, as the other half may be of any version: a reader matches the names and decides
/// what the others mean, or converts by `TryFrom`, which refuses them.
macro_rules! code {
    ($(#[$doc:meta])* $name:ident($raw:ty) { $($(#[$value_doc:meta])* $value:ident = $number:expr,)+ }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Eq, zerocopy::FromBytes, Hash, zerocopy::Immutable, zerocopy::IntoBytes,
            zerocopy::KnownLayout, PartialEq,
        )]
        #[repr(transparent)]
        pub struct $name($raw);

        impl $name {
            $($(#[$value_doc])* pub const $value: Self = Self($number);)+

            /// The number as it crosses, host byte order.
            #[inline(always)]
            pub const fn raw(self) -> $raw {
                self.0
            }
        }

        impl TryFrom<$raw> for $name {
            type Error = $crate::UnknownCode;

            fn try_from(raw: $raw) -> Result<Self, Self::Error> {
                match Self(raw) {
                    $(Self::$value)|+ => Ok(Self(raw)),
                    _ => Err($crate::UnknownCode),
                }
            }
        }

        $crate::pod!($name);
    };
}
pub(crate) use code;

/// Error: a number that has no name in this version of the types.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownCode;
