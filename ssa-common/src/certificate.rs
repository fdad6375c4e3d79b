//! Certificates of peers as `getsockopt` gives them out. Each is stored once, however many connections
//! have met it. Written and deleted by the agent only.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{limits::OPTION_BYTES, pod};

/// SHA-256 of a certificate in DER, or of the digests of a chain's certificates.
pub type Digest = [u8; 32];

/// Count of certificates of a chain that can be asked for one by one (`TLS_PEER_CERTIFICATE(i)`).
pub const CHAIN_MAX: usize = 16;

/// Verified chain of a peer, leaf first: the value of the map `CHAINS`, by the SHA-256 of its certificates' digests.
/// Written and deleted by the agent, after its certificates.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Chain {
    /// Count of certificates in the chain, of which [`CHAIN_MAX`] are stored.
    pub count: u32,
    /// Count of whole certificates in `pem`.
    pub pem_count: u32,
    /// Keys of the certificates in the map `CERTIFICATES`.
    pub certificates: [Digest; CHAIN_MAX],
    /// Ends of the certificates' texts in `pem`, in bytes from its start.
    pub ends: [u16; CHAIN_MAX],
    /// As many certificates as fit, as PEM (RFC 7468), without a NUL.
    pub pem: [u8; OPTION_BYTES],
}

/// Certificate of a peer: the value of the map `CERTIFICATES`, by its SHA-256. Written and deleted by the agent.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Certificate {
    /// Length of the certificate, in bytes. If it is over [`OPTION_BYTES`], `der` is empty.
    pub len: u32,
    /// Reserved; always zero.
    pub reserved: u32,
    /// Certificate in DER, then zeros.
    pub der: [u8; OPTION_BYTES],
}

pod!(Chain);
pod!(Certificate);

const _: () = assert!(size_of::<Chain>() == 4648);
const _: () = assert!(size_of::<Certificate>() == 4104);
