//! Certificates of peers as `getsockopt` gives them out. Each is stored once, however many connections
//! have met it. Written and deleted by the agent only.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{limits::OPTION_BYTES, pod};

/// SHA-256 of a certificate in DER, or of the digests of a chain's certificates.
pub type Digest = [u8; 32];

/// Certificates of a chain that can be asked for one by one (`TLS_PEER_CERTIFICATE(i)`).
pub const CHAIN_MAX: usize = 16;

/// A verified chain, leaf first.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Chain {
    /// Certificates of the chain, of which `CHAIN_MAX` are stored.
    pub count: u32,
    /// Whole certificates in `pem`.
    pub pem_count: u32,
    /// The certificates, by digest.
    pub certificates: [Digest; CHAIN_MAX],
    /// Where each certificate's text ends in `pem`.
    pub ends: [u16; CHAIN_MAX],
    /// As many certificates as fit, as PEM.
    pub pem: [u8; OPTION_BYTES],
}

/// A certificate.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Certificate {
    /// Length, in bytes. If it is over the room there is, `der` is empty.
    pub len: u32,
    /// Reserved; always zero.
    pub reserved: u32,
    pub der: [u8; OPTION_BYTES],
}

pod!(Chain);
pod!(Certificate);

const _: () = assert!(size_of::<Chain>() == 4648);
const _: () = assert!(size_of::<Certificate>() == 4104);
