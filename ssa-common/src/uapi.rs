//! The interface for applications: the level `IPPROTO_TLS`, its options, their types, phases and meaning.
//!
//! [`OPTIONS`] is the one table that drives all: the hooks' table ([`crate::rule`]) and the C
//! header `include/in_tls.h` are made from it.

use crate::{
    certificate::CHAIN_MAX,
    connection::{Scalar, Text},
    context::Setting,
    limits::{HOSTNAME_BYTES, OPTION_BYTES},
};

/// Socket protocol and option level of TLS (Secure Socket API 0.67: `715 % 255`).
pub const IPPROTO_TLS: i32 = 205;

/// Option number: name (or IP address) of the peer, for SNI and for the check of its certificate.
pub const TLS_HOSTNAME: i32 = 85;
/// Option number: CAs to trust instead of the system's: file, hashed directory, or PEM.
pub const TLS_TRUSTED_PEER_CERTIFICATES: i32 = 87;
/// Option number: own certificate chain, leaf first.
pub const TLS_CERTIFICATE_CHAIN: i32 = 88;
/// Option number: key of the latest chain without one.
pub const TLS_PRIVATE_KEY: i32 = 89;
/// Option number: this socket's id.
pub const TLS_ID: i32 = 96;
/// Option number: the negotiated cipher.
pub const TLS_CHOSEN_CIPHER: i32 = 98;
/// Option number: why the last operation failed, in words; empty if none did.
pub const TLS_ERROR: i32 = 100;
/// Option number: get: this socket's context, frozen from then on; set: adopt another's settings and sessions.
pub const TLS_CONTEXT: i32 = 107;
/// Option number: cache and resume sessions.
pub const TLS_SESSION_REUSE: i32 = 108;
/// Option number: was this connection resumed.
pub const TLS_RESUMED_SESSION: i32 = 109;
/// Option number: the negotiated version.
pub const TLS_VERSION_CONN: i32 = 113;
/// Option number: 0 fresh, 1 connecting, 2 connected, 3 listening, 4 failed, 5 closed by the peer.
pub const TLS_STATE: i32 = 130;

/// TLS 1.2, as on the wire (RFC 5246, appendix E.1).
pub const TLS_1_2: i64 = 0x0303;
/// TLS 1.3, as on the wire (RFC 8446, section 4.2.1).
pub const TLS_1_3: i64 = 0x0304;

/// Phases in which an option may be set or read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum When {
    /// The direction isn't offered: `ENOPROTOOPT`.
    Never = 0,
    /// Before `connect` or `listen`, and after a failed connect; else `EOPNOTSUPP`.
    Fresh = 1,
    /// Connected, or closed by the peer; else `EOPNOTSUPP`.
    Connected = 2,
    /// Any phase.
    Any = 3,
}

/// Type of an option's value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// 4 bytes, host byte order, 0 or 1.
    Bool,
    /// One cipher suite, by OpenSSL's or IANA's name; with its NUL.
    Cipher,
    /// Cipher suites with a colon between them; with its NUL.
    Ciphers,
    /// A certificate in DER.
    Der,
    /// 4 bytes, host byte order, from 0 to this.
    UpTo(u8),
    /// Bytes, exactly this many.
    Bytes(usize),
    /// `uint64_t`, host byte order.
    Id,
    /// 4 bytes, host byte order.
    Int,
    /// An `Int` that is a TLS version: 0x0303 or 0x0304. One that is older than these, which nobody
    /// may use: `EPROTO`.
    Version,
    /// `int64_t`, host byte order.
    Long,
    /// A path, or the PEM text itself if it starts with `-----BEGIN`; with its NUL.
    PathOrPem,
    /// Text of at most so many bytes with its NUL.
    String(usize),
}

/// Place where an option's value lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The protocols to offer; connected, the one that was chosen.
    Alpn,
    /// One certificate of the peer's chain: the option's number minus the first.
    Certificate,
    /// The peer's chain as text.
    Chain,
    /// The list of suites, off which one is taken.
    CipherOff,
    /// The list of suites, in front of which one is put.
    CipherOn,
    /// The list of suites.
    Ciphers,
    /// The agent, which takes it out of a map ([`crate::context::Blob`]).
    Blob,
    /// The socket's context id: read freezes it, set adopts another.
    Context,
    /// An answer of the connection.
    Answer(Scalar),
    /// The SHA-256 of the peer's certificate.
    AnswerSha256,
    /// An answer of the connection, as text.
    AnswerText(Text),
    /// The socket's last error, as text.
    Error,
    /// The socket's host name.
    HostName,
    /// The socket's id.
    Id,
    /// A setting of the context.
    Setting(Setting),
    /// The socket's phase.
    State,
}

/// Option of the level [`IPPROTO_TLS`].
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Number, as setsockopt(2) takes it.
    pub number: i32,
    /// Count of numbers that it has, from that one on; if it is not 1, the C name takes an index.
    pub count: i32,
    /// The C name; [`ALIASES`] has the older spellings.
    pub name: &'static str,
    /// Phases in which it may be set.
    pub set: When,
    /// Phases in which it may be read.
    pub get: When,
    /// Type of its value.
    pub kind: Kind,
    /// Place where its value lives.
    pub place: Place,
    /// Description for the header and the man pages, one line.
    pub doc: &'static str,
}

use When::{Any, Connected, Fresh, Never};

/// Makes an option of one number.
const fn opt(
    number: i32,
    name: &'static str,
    set: When,
    get: When,
    kind: Kind,
    place: Place,
    doc: &'static str,
) -> Opt {
    Opt { number, count: 1, name, set, get, kind, place, doc }
}

impl Opt {
    /// The same option under `count` numbers.
    const fn times(self, count: usize) -> Self {
        Self { count: count as i32, ..self }
    }
}

/// Options by number; the description is what the C header says.
#[rustfmt::skip]
pub const OPTIONS: &[Opt] = &[
    opt(85, "TLS_HOSTNAME", Fresh, Any, Kind::String(HOSTNAME_BYTES), Place::HostName, "name (or IP address) of the peer, for SNI and for the check of its certificate"),
    opt(86, "TLS_HOSTNAME_2", Fresh, Any, Kind::String(HOSTNAME_BYTES), Place::HostName, "the same as TLS_HOSTNAME"),
    opt(87, "TLS_TRUSTED_PEER_CERTIFICATES", Fresh, Never, Kind::PathOrPem, Place::Blob, "CAs to trust instead of the system's: file, hashed directory, or PEM"),
    opt(88, "TLS_CERTIFICATE_CHAIN", Fresh, Never, Kind::PathOrPem, Place::Blob, "own certificate chain, leaf first"),
    opt(89, "TLS_PRIVATE_KEY", Fresh, Never, Kind::PathOrPem, Place::Blob, "key of the latest chain without one"),
    opt(90, "TLS_ALPN", Fresh, Any, Kind::String(HOSTNAME_BYTES), Place::Alpn, "application protocols, comma separated; connected: the chosen one"),
    opt(91, "TLS_SESSION_TTL", Fresh, Any, Kind::Long, Place::Setting(Setting::SessionTtl), "life of cached sessions in seconds; 0: don't cache"),
    opt(92, "TLS_DISABLE_CIPHER", Fresh, Never, Kind::Cipher, Place::CipherOff, "take one cipher suite off the list; not on it: EINVAL"),
    opt(93, "TLS_PEER_IDENTITY", Never, Connected, Kind::String(OPTION_BYTES), Place::AnswerText(Text::Identity), "subject of the peer's certificate, RFC 2253"),
    opt(94, "TLS_REQUEST_PEER_AUTH", Fresh, Any, Kind::UpTo(2), Place::Setting(Setting::PeerAuth), "server: ask for a client certificate (1), require one (2)"),
    opt(95, "TLS_PEER_CERTIFICATE_CHAIN", Never, Connected, Kind::String(OPTION_BYTES), Place::Chain, "the peer's chain as PEM, leaf first, as many whole certificates as fit"),
    opt(96, "TLS_ID", Never, Any, Kind::Id, Place::Id, "this socket's id"),
    opt(97, "TLS_TRUSTED_CIPHERS", Fresh, Any, Kind::Ciphers, Place::Ciphers, "cipher suites that may be used, colon separated, best first"),
    opt(98, "TLS_CHOSEN_CIPHER", Never, Connected, Kind::String(OPTION_BYTES), Place::AnswerText(Text::Cipher), "the negotiated cipher"),
    opt(100, "TLS_ERROR", Never, Any, Kind::String(256), Place::Error, "why the last operation failed, in words; empty if none did"),
    opt(102, "TLS_REVOCATION_CHECKS", Fresh, Any, Kind::Bool, Place::Setting(Setting::RevocationChecks), "refuse a peer unless it is known that no certificate of its chain is revoked"),
    opt(103, "TLS_OCSP_STAPLED_CHECKS", Fresh, Any, Kind::Bool, Place::Setting(Setting::StapledChecks), "OCSP responses that the peer staples may answer"),
    opt(104, "TLS_OCSP_CHECKS", Fresh, Any, Kind::Bool, Place::Setting(Setting::OcspChecks), "OCSP responders may answer"),
    opt(105, "TLS_CRL_CHECKS", Fresh, Any, Kind::Bool, Place::Setting(Setting::CrlChecks), "lists of revoked certificates (CRLs) may answer"),
    opt(106, "TLS_CACHED_REV_CHECKS", Fresh, Any, Kind::Bool, Place::Setting(Setting::CachedChecks), "answers from the agent's cache may answer"),
    opt(107, "TLS_CONTEXT", Fresh, Fresh, Kind::Id, Place::Context, "get: this socket's context, frozen from then on; set: adopt another's settings and sessions"),
    opt(108, "TLS_SESSION_REUSE", Fresh, Any, Kind::Bool, Place::Setting(Setting::SessionReuse), "cache and resume sessions"),
    opt(109, "TLS_RESUMED_SESSION", Never, Connected, Kind::Bool, Place::Answer(Scalar::Resumed), "was this connection resumed"),
    opt(110, "TLS_ENABLE_CIPHER", Fresh, Never, Kind::Cipher, Place::CipherOn, "put a cipher suite on the list, in front of the others"),
    opt(111, "TLS_VERSION_MIN", Fresh, Any, Kind::Version, Place::Setting(Setting::VersionMin), "0x0303 (TLS 1.2) or 0x0304 (TLS 1.3)"),
    opt(112, "TLS_VERSION_MAX", Fresh, Any, Kind::Version, Place::Setting(Setting::VersionMax), "0x0303 (TLS 1.2) or 0x0304 (TLS 1.3)"),
    opt(113, "TLS_VERSION_CONN", Never, Connected, Kind::Int, Place::Answer(Scalar::Version), "the negotiated version"),
    opt(122, "TLS_SERVER_OCSP_STAPLING", Fresh, Any, Kind::Bool, Place::Setting(Setting::Stapling), "server: staple an OCSP response"),
    opt(130, "TLS_STATE", Never, Any, Kind::Int, Place::State, "0 fresh, 1 connecting, 2 connected, 3 listening, 4 failed, 5 closed by the peer"),
    opt(131, "TLS_PEER_CERTIFICATE_COUNT", Never, Connected, Kind::Int, Place::Answer(Scalar::CertificateCount), "certificates in the peer's verified chain"),
    opt(132, "TLS_PEER_CERTIFICATE", Never, Connected, Kind::Der, Place::Certificate, "one certificate of the peer's verified chain, the leaf is 0; past the end: ENOENT; over 4096 bytes: EMSGSIZE").times(CHAIN_MAX),
    opt(150, "TLS_PEER_CERTIFICATE_SHA256", Never, Connected, Kind::Bytes(32), Place::AnswerSha256, "SHA-256 of the peer's certificate"),
];

/// Other spellings: name, option.
pub const ALIASES: &[(&str, &str)] = &[("TLS_REMOTE_HOSTNAME", "TLS_HOSTNAME")];

/// Finds the option that a number belongs to.
pub fn option(number: i32) -> Option<&'static Opt> {
    OPTIONS.iter().find(|option| (option.number..option.number + option.count).contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_and_unique() {
        assert!(OPTIONS.is_sorted_by(|a, b| a.number + a.count <= b.number));
    }

    #[test]
    fn every_option_is_offered_in_some_direction() {
        assert!(OPTIONS.iter().all(|option| option.set != Never || option.get != Never));
    }

    #[test]
    fn constants_agree_with_the_table() {
        for (number, name) in [
            (TLS_HOSTNAME, "TLS_HOSTNAME"),
            (TLS_TRUSTED_PEER_CERTIFICATES, "TLS_TRUSTED_PEER_CERTIFICATES"),
            (TLS_CERTIFICATE_CHAIN, "TLS_CERTIFICATE_CHAIN"),
            (TLS_PRIVATE_KEY, "TLS_PRIVATE_KEY"),
            (TLS_ID, "TLS_ID"),
            (TLS_CHOSEN_CIPHER, "TLS_CHOSEN_CIPHER"),
            (TLS_ERROR, "TLS_ERROR"),
            (TLS_CONTEXT, "TLS_CONTEXT"),
            (TLS_SESSION_REUSE, "TLS_SESSION_REUSE"),
            (TLS_RESUMED_SESSION, "TLS_RESUMED_SESSION"),
            (TLS_VERSION_CONN, "TLS_VERSION_CONN"),
            (TLS_STATE, "TLS_STATE"),
        ] {
            assert!(OPTIONS.iter().any(|option| option.number == number && option.name == name), "{name}");
        }
    }
}
