//! The sections of the configuration, with every key: what it means, and what holds without it.
//!
//! `cargo xtask codegen` makes `deploy/agent.toml`, ssa-agent.toml(5) and the JSON schema from what stands here.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    section::section,
    value::{Alpn, Count, Group, List, Placed, Seconds, SignatureAlgorithm, Suite12, Suite13, UserGroup, Version},
};
use crate::tls::Suite;

section! {
    /// Versions and algorithms that may be spoken.
    Tls, written TlsKeys {
        /// The lowest version: "1.2" or "1.3".
        version_min: Version = Version::Tls12,

        /// The highest version: "1.2" or "1.3".
        version_max: Version = Version::Tls13,

        /// Cipher suites of TLS 1.2 that may be used, best first, by OpenSSL's or IANA's names. Default: those of OpenSSL and its
        /// configuration file (`openssl ciphers -s -tls1_2`) that have forward secrecy (ECDHE, DHE) and authenticated encryption
        /// (GCM, CHACHA20).
        #[schemars(with = "Vec<String>")]
        #[schemars(example = ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"])]
        ciphers: Vec<Suite> as List<Suite12> = Suite::by_default(false),

        /// Cipher suites of TLS 1.3 that may be used, best first. Default: those of OpenSSL and its configuration file
        /// (`openssl ciphers -s -tls1_3`).
        #[schemars(with = "Vec<String>")]
        #[schemars(example = ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"])]
        ciphersuites: Vec<Suite> as List<Suite13> = Suite::by_default(true),

        /// Groups for key exchange, best first. Default, and what an empty list means: OpenSSL's own.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(example = ["X25519", "P-256"])]
        groups: Vec<String> as List<Group> = Vec::new(),

        /// Signature algorithms that a peer may prove itself with, best first. Default, and what an empty list means: OpenSSL's
        /// own.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(example = ["ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256"])]
        signature_algorithms: Vec<String> as List<SignatureAlgorithm> = Vec::new(),

        /// Application protocols that are offered for applications that name none (`TLS_ALPN`), such as "h2". Each has 1 to 254
        /// bytes and no comma.
        alpn: Vec<String> as List<Alpn> = Vec::new(),
    }
}

section! {
    /// Who is trusted to vouch for a peer.
    Trust, written TrustKeys {
        /// Trust the CAs of the system's store.
        system: bool = true,

        /// PEM files of CAs. They are trusted besides those of the system.
        files: Vec<PathBuf> = Vec::new(),

        /// Directories of CAs, as `openssl rehash` makes them. They are trusted besides those of the system.
        directories: Vec<PathBuf> = Vec::new(),

        /// Applications may trust CAs of their own instead (`TLS_TRUSTED_PEER_CERTIFICATES`). Where they may not, such an
        /// application gets `EPROTO`.
        applications_may_bring_cas: bool = true,

        /// How many intermediate certificates may stand between a peer's own and a root.
        verify_depth: u64 as Count = 100,

        /// Refuse certificates that break the letter of RFC 5280 (`X509_V_FLAG_X509_STRICT`).
        strict: bool = false,
    }
}

section! {
    /// Whether a peer's certificates are checked for revocation, and how.
    Revocation, written RevocationKeys {
        /// Check for revocation. Every certificate of a peer's chain but the root needs an answer that it is not revoked: from the
        /// cache, stapled by the peer, from an OCSP responder, or from a CRL that it names. Without one there is no connection,
        /// but `EPROTO`. Clients that show a certificate are checked as well. Off: applications may turn it on for themselves
        /// (`TLS_REVOCATION_CHECKS`). On: no application does without.
        checks: bool = false,

        /// Take answers that the peer staples to its handshake, if the application does not turn that off
        /// (`TLS_OCSP_STAPLED_CHECKS`). Stapled and cached answers come first. Of two answers the later one is right: an older one
        /// does not make a certificate good that is known to be revoked.
        stapled: bool = true,

        /// Ask OCSP responders, if the application does not turn that off (`TLS_OCSP_CHECKS`). Responders and CRLs are asked side by
        /// side, and the first answer counts.
        ocsp: bool = true,

        /// Fetch the CRLs that certificates name, if the application does not turn that off (`TLS_CRL_CHECKS`).
        crl: bool = true,

        /// Take answers from the cache, if the application does not turn that off (`TLS_CACHED_REV_CHECKS`).
        cached: bool = true,

        /// A responder that is asked must repeat a random number, so that nobody can play an old answer instead. Many responders do
        /// not do so. Cached and stapled answers are taken as they are.
        nonce: bool = false,

        /// For profiles only: where nobody answers, the connection is made all the same. The log says so each time. Applications
        /// can't turn off ways to get an answer there.
        soft_fail: bool as Placed<bool> = false,

        /// Who asks responders and fetches CRLs.
        fetch_from: FetchFrom = FetchFrom::Application,

        /// How long one server has to answer, in seconds: from 0.1 to 60. A server that fails is not asked again for 15 seconds, and
        /// for longer each time, up to 10 minutes. The limit of the handshake holds for all of it.
        fetch_seconds: Seconds = Seconds::from_secs(4),

        /// Ask servers on this machine (loopback), on its links (link-local), and the metadata service of a cloud, too. Whoever has a
        /// certificate made chooses what it names.
        fetch_local: bool = false,

        /// Reset open connections when their peer becomes revoked. They are counted and listed in any case.
        close_revoked: bool = false,
    }
}

impl RevocationKeys {
    /// Whether it lets peers be of which nothing is known.
    pub(super) fn is_soft(&self) -> bool {
        self.soft_fail.as_ref().is_some_and(|soft| *soft.0.get_ref())
    }
}

/// Who asks about revocation: from whose network namespace, and as whom.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum FetchFrom {
    /// The agent itself.
    Host,
    /// The application, from its network namespace and with its firewalls.
    Application,
}

section! {
    /// Resumption of sessions.
    Sessions, written SessionsKeys {
        /// Cache and resume sessions, if the application does not turn that off (`TLS_SESSION_REUSE`).
        reuse: bool = true,

        /// How long a session may be resumed, in seconds. Applications may ask for less (`TLS_SESSION_TTL`). Default: 7200 for
        /// applications that say nothing, and what they like for the others.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(example = 7200)]
        lifetime_seconds: Option<u64> as Count = None,

        /// Use session tickets. Without them only the session ids of TLS 1.2 are left.
        tickets: bool = true,
    }
}

/// How long sessions are cached if nobody says: what servers usually allow.
pub(super) const SESSION_SECONDS: u64 = 7200;

section! {
    /// How long things may take.
    Time, written TimeKeys {
        /// How long the TCP connection to a peer may take, in seconds: from 0.1, and with `handshake_seconds` 60 at most. After that
        /// the connect fails with `EHOSTUNREACH`.
        connect_seconds: Seconds = Seconds::from_secs(10),

        /// How long the TLS handshake may take after that, in seconds: from 0.1, and with `connect_seconds` 60 at most. After that
        /// the connect fails with `EHOSTUNREACH`.
        handshake_seconds: Seconds = Seconds::from_secs(10),

        /// Reset a connection after so many seconds without a byte either way. 0: it may be idle for as long as it likes.
        idle_seconds: u64 as Count = 0,
    }
}

section! {
    /// What is shown to peers that ask for a certificate, for applications that bring none (`TLS_CERTIFICATE_CHAIN`).
    Credentials, written CredentialsKeys {
        /// PEM file of the certificate chain, leaf first. It needs a `key`. Default: none.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(example = &"/etc/ssa/client.pem")]
        chain: Option<PathBuf> as PathBuf = None,

        /// PEM file of the private key of `chain`. It is not encrypted. Default: none.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(example = &"/etc/ssa/client.key")]
        key: Option<PathBuf> as PathBuf = None,
    }
}

section! {
    /// How much there may be at a time.
    Limits, written LimitsKeys {
        /// TLS sockets that may be open, in all. One more fails with `ENOBUFS`.
        sockets: u64 as Count = 100_000,

        /// TLS sockets of each user that may be open. One more fails with `ENOBUFS`.
        sockets_per_user: u64 as Count = 50_000,

        /// TLS connections that may be open or on their way, in all: those that applications make, and those that they accept. One
        /// more fails with `EHOSTUNREACH`; one more client is reset. A limit of open files (`ulimit -n`, `LimitNOFILE=`) that leaves
        /// room for fewer counts as well: each connection takes two.
        connections: u64 as Count = 100_000,

        /// The same, for each service.
        connections_per_service: u64 as Count = 50_000,

        /// The same, for each user.
        connections_per_user: u64 as Count = 50_000,

        /// Handshakes in flight, in all. One more connect fails with `EHOSTUNREACH`; one more client is reset. A listener has 1024 at
        /// most.
        handshakes: u64 as Count = 4096,
    }
}

/// The only limit that a profile may have: the others are nobody's own.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ProfileLimits {
    /// TLS sockets of each user that may be open. One more fails with `ENOBUFS`.
    #[schemars(with = "u64")]
    pub(super) sockets_per_user: Option<Count>,
}

section! {
    /// Where answers about revocation are kept when the agent ends.
    Cache, written CacheKeys {
        /// The directory for them. "": they are not kept. Taken at the start only.
        directory: PathBuf = PathBuf::from("/var/cache/ssa-agent"),
    }
}

section! {
    /// Who may tell the agent what to do, and how it makes way for another.
    Control, written ControlKeys {
        /// A group whose members may use the control socket, as root may: `ssa-agent attach`, `reload`, `status` and the others. A
        /// name or a gid. Taken at the start only. Default: none.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(schema_with = "super::value::number_or_name", example = &"adm")]
        group: Option<UserGroup> as UserGroup = None,

        /// When another agent has taken over (`ssa-agent upgrade`), connections of this one may go on for so many seconds. Then they
        /// are reset.
        finish_seconds: u64 as Count = 3600,
    }
}

section! {
    /// Metrics and health by HTTP.
    Monitor, written MonitorKeys {
        /// An address and port that serve Prometheus metrics at `/metrics`, and `/healthz/ready` and `/healthz/live`. Taken at the
        /// start only. Default: none.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "String", example = &"127.0.0.1:15020")]
        listen: Option<SocketAddr> as SocketAddr = None,
    }
}
