//! A context: settings that one socket owns and that others can adopt (`TLS_CONTEXT`), with the paths and PEM texts
//! that were set on it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    cipher::{CipherList, CipherSet},
    pod,
    socket::HostName,
};

/// Scalar settings, by slot of [`Context::scalars`]. Adding an option that is a number is adding a
/// slot here and an entry in [`crate::uapi::OPTIONS`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Setting {
    /// `TLS_SESSION_REUSE`: 0 or 1.
    SessionReuse = 0,
    /// `TLS_VERSION_MIN`: 0x0303 or 0x0304, not above [`Setting::VersionMax`].
    VersionMin = 1,
    /// `TLS_VERSION_MAX`: 0x0303 or 0x0304.
    VersionMax = 2,
    /// `TLS_SESSION_TTL`: seconds, not negative.
    SessionTtl = 3,
    /// `TLS_REQUEST_PEER_AUTH`: 0, 1 (ask) or 2 (require).
    PeerAuth = 4,
    /// `TLS_SERVER_OCSP_STAPLING`: 0 or 1.
    Stapling = 5,
    /// `TLS_REVOCATION_CHECKS`: 0 or 1.
    RevocationChecks = 6,
    /// `TLS_OCSP_STAPLED_CHECKS`: 0 or 1.
    StapledChecks = 7,
    /// `TLS_OCSP_CHECKS`: 0 or 1.
    OcspChecks = 8,
    /// `TLS_CRL_CHECKS`: 0 or 1.
    CrlChecks = 9,
    /// `TLS_CACHED_REV_CHECKS`: 0 or 1.
    CachedChecks = 10,
}

/// Slots of [`Context::scalars`].
pub const SETTINGS: usize = 16;

/// Settings of a context: the value of the map `CONTEXTS`, by its id. Written by the hooks only; read by the hooks
/// and by the agent. Numbers are in host byte order.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Context {
    /// Id that it is stored under; tells a reused map entry from the one that was looked up.
    pub id: u64,
    /// Service of which a socket must be to adopt it ([`crate::socket::Caller::service`]).
    pub service: u64,
    /// Cookie of the network namespace in which a socket must be to adopt it.
    pub netns: u64,
    /// Real user id of its creator, which the caller that adopts it must have.
    pub uid: u32,
    /// Count of sockets that use it; it is deleted with the last. Changed atomically.
    pub refs: u32,
    /// 1 once its id was read: only host names may change from then on.
    pub frozen: u32,
    /// Count of paths and PEM texts that were set, of all options: the sequence number of the last. At most
    /// [`crate::limits::BLOB_SETS_MAX`].
    pub blob_sets: u32,
    /// Sequence number of the last set of CAs; zero for none. The agent must have it, or it refuses to
    /// connect.
    pub trust_set: u32,
    /// Count of chains and keys that were set. The agent must have just as many, or it refuses to connect.
    pub credential_sets: u32,
    /// Settings that are numbers, by [`Setting`].
    pub scalars: [i64; SETTINGS],
    /// Settings of `scalars` that the application has set: a bit for each slot.
    pub scalars_set: u32,
    /// 1 once the application has changed the list of cipher suites.
    pub ciphers_set: u32,
    /// Suites that the application has asked for, and has not taken back.
    pub asked: CipherSet,
    /// Suites that may be used, in order of preference.
    pub ciphers: CipherList,
    /// The owner's host name, which adopters start with.
    pub hostname: HostName,
    /// Application protocols, comma separated (`TLS_ALPN`); a text like a host name.
    pub alpn: HostName,
}

impl Context {
    /// The value of a setting.
    pub fn scalar(&self, setting: Setting) -> i64 {
        self.scalars[setting as usize]
    }

    /// True if the application has set it; else it is the policy's default at the time the context was made.
    pub fn is_set(&self, setting: Setting) -> bool {
        self.scalars_set >> setting as u32 & 1 != 0
    }
}

/// Key of the maps `BLOBS` and `PATHS`: one set of an option on a context. Written by the hooks.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct BlobKey {
    /// Id of the context.
    pub context: u64,
    /// Number of the option ([`crate::uapi::OPTIONS`]).
    pub option: u32,
    /// Sequence number of this set among those of paths and PEM texts on the context, from 1.
    pub sequence: u32,
}

/// Value of an option that only the agent can check: a path or a PEM text, maybe a private key. The value of the map
/// `BLOBS`: written by `setsockopt`; the agent deletes it as it reads it.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Blob {
    /// Length without the NUL, in bytes.
    pub len: u32,
    /// Reserved; always zero.
    pub reserved: u32,
    /// Text without its NUL, then zeros.
    pub bytes: [u8; crate::limits::OPTION_BYTES],
}

/// Path that an application has set, kept for an agent that comes after this one; PEM texts are not. The value of the
/// map `PATHS`, written by the agent.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct KeptPath {
    /// Process whose rights it is opened with.
    pub caller: crate::socket::Caller,
    /// Start of that process, in clock ticks after boot (proc_pid_stat(5)): another one may get its
    /// number.
    pub started: u64,
    /// Length of the path, in bytes.
    pub len: u32,
    /// Reserved; always zero.
    pub reserved: u32,
    /// Path without a NUL, then zeros.
    pub bytes: [u8; KEPT_PATH_BYTES],
}

/// Longest path that is kept, in bytes.
pub const KEPT_PATH_BYTES: usize = 512;

pod!(KeptPath);
pod!(Context);
pod!(BlobKey);
pod!(Blob);

const _: () = assert!(size_of::<Context>() == 968);
const _: () = assert!(size_of::<BlobKey>() == 16);
const _: () = assert!(size_of::<KeptPath>() == 568);
const _: () = assert!(size_of::<Blob>() == 4104);
