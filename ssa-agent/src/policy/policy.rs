//! What an administrator decides for an application: TLS, trust, revocation, sessions, time, credentials, limits.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::value::{Seconds, Version};
use crate::tls::Suite;

/// What is in force for a program. Printed, it is a file that says the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Policy {
    pub(crate) tls: Tls,
    pub(crate) trust: Trust,
    pub(crate) revocation: Revocation,
    pub(crate) sessions: Sessions,
    pub(crate) time: Time,
    pub(crate) credentials: Credentials,
    pub(crate) limits: Limits,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Tls {
    pub(crate) version_min: Version,
    pub(crate) version_max: Version,
    /// Of TLS 1.2, best first.
    pub(crate) ciphers: Vec<Suite>,
    /// Of TLS 1.3, best first.
    pub(crate) ciphersuites: Vec<Suite>,
    /// Empty: OpenSSL's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<String>,
    /// Empty: OpenSSL's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) signature_algorithms: Vec<String>,
    /// For programs that set none.
    pub(crate) alpn: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Trust {
    pub(crate) system: bool,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) applications_may_bring_cas: bool,
    /// Intermediates between a root and a leaf, at most.
    pub(crate) verify_depth: u64,
    /// `X509_V_FLAG_X509_STRICT`.
    pub(crate) strict: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Revocation {
    /// Programs may check where this is off, and can't do without where it is on.
    pub(crate) checks: bool,
    /// Ways that may answer, for programs that allow them.
    pub(crate) stapled: bool,
    pub(crate) ocsp: bool,
    pub(crate) crl: bool,
    pub(crate) cached: bool,
    /// Responders must answer with the number that was asked with.
    pub(crate) nonce: bool,
    /// No answer is as good as a good one.
    pub(crate) soft_fail: bool,
    pub(crate) fetch_from: FetchFrom,
    /// For each server.
    pub(crate) fetch_seconds: Seconds,
    /// Whether servers on this machine, on its links, and clouds' metadata services may be asked.
    pub(crate) fetch_local: bool,
    /// Open connections are reset when their peer becomes revoked.
    pub(crate) close_revoked: bool,
}

/// From whose network namespace, and as whom.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FetchFrom {
    Host,
    Application,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Sessions {
    pub(crate) reuse: bool,
    /// None: programs may choose any, and [`SESSION_SECONDS`] if they don't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lifetime_seconds: Option<u64>,
    pub(crate) tickets: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Time {
    pub(crate) connect_seconds: Seconds,
    pub(crate) handshake_seconds: Seconds,
    /// Zero: for as long as it likes.
    pub(crate) idle_seconds: u64,
}

/// For programs that bring none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Credentials {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chain: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Limits {
    pub(crate) sockets: u64,
    pub(crate) sockets_per_user: u64,
    pub(crate) connections: u64,
    pub(crate) connections_per_service: u64,
    pub(crate) connections_per_user: u64,
    pub(crate) handshakes: u64,
}

/// How long sessions are cached if nobody says: what servers usually allow.
pub(crate) const SESSION_SECONDS: u64 = 7200;

impl Default for Policy {
    fn default() -> Self {
        Self {
            tls: Tls {
                version_min: Version::Tls12,
                version_max: Version::Tls13,
                ciphers: Suite::by_default(false),
                ciphersuites: Suite::by_default(true),
                groups: Vec::new(),
                signature_algorithms: Vec::new(),
                alpn: Vec::new(),
            },
            trust: Trust {
                system: true,
                files: Vec::new(),
                directories: Vec::new(),
                applications_may_bring_cas: true,
                verify_depth: 100,
                strict: false,
            },
            revocation: Revocation {
                checks: false,
                stapled: true,
                ocsp: true,
                crl: true,
                cached: true,
                nonce: false,
                soft_fail: false,
                fetch_from: FetchFrom::Application,
                fetch_seconds: Seconds::from_secs(4),
                fetch_local: false,
                close_revoked: false,
            },
            sessions: Sessions { reuse: true, lifetime_seconds: None, tickets: true },
            time: Time {
                connect_seconds: Seconds::from_secs(10),
                handshake_seconds: Seconds::from_secs(10),
                idle_seconds: 0,
            },
            credentials: Credentials { chain: None, key: None },
            limits: Limits {
                sockets: 100_000,
                sockets_per_user: 50_000,
                connections: 100_000,
                connections_per_service: 50_000,
                connections_per_user: 50_000,
                handshakes: 4096,
            },
        }
    }
}

impl Policy {
    /// Combinations that make no sense: the section, and what would be right.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let tls = &self.tls;
        if tls.version_min > tls.version_max {
            return Err(("tls", "`version_min` is above `version_max`: no version is left".to_owned()));
        }
        let usable = (tls.version_min == Version::Tls12 && !tls.ciphers.is_empty())
            || (tls.version_max == Version::Tls13 && !tls.ciphersuites.is_empty());
        if !usable {
            let what = "no cipher suite is left for the versions: `ciphers` are for 1.2, `ciphersuites` for 1.3";
            return Err(("tls", what.to_owned()));
        }
        let trust = &self.trust;
        if !trust.system && trust.files.is_empty() && trust.directories.is_empty() && !trust.applications_may_bring_cas
        {
            let what =
                "nobody is trusted: give `files` or `directories`, or set `system` or `applications_may_bring_cas`";
            return Err(("trust", what.to_owned()));
        }
        let revocation = &self.revocation;
        if revocation.checks && !(revocation.stapled || revocation.ocsp || revocation.crl) && !revocation.soft_fail {
            let what = "`checks` is on and no way may answer: allow `stapled`, `ocsp` or `crl`";
            return Err(("revocation", what.to_owned()));
        }
        let seconds = self.time.connect_seconds.get() + self.time.handshake_seconds.get();
        if seconds.as_secs_f64() > Seconds::MAX {
            let what = format!(
                "`connect_seconds` and `handshake_seconds` are {} together: the kernel gives a connect up after {}",
                seconds.as_secs_f64(),
                Seconds::MAX
            );
            return Err(("time", what));
        }
        if self.credentials.chain.is_some() != self.credentials.key.is_some() {
            return Err(("credentials", "`chain` and `key` are only of use together".to_owned()));
        }
        Ok(())
    }

    /// Suites of both generations, TLS 1.3's first.
    pub(crate) fn suites(&self) -> impl Iterator<Item = Suite> {
        self.tls.ciphersuites.iter().chain(&self.tls.ciphers).copied()
    }

    /// The suites that are of use with the versions.
    pub(crate) fn usable_suites(&self) -> Vec<Suite> {
        let (min, max) = (self.tls.version_min, self.tls.version_max);
        self.suites()
            .filter(|suite| if suite.is_tls_1_3() { max == Version::Tls13 } else { min == Version::Tls12 })
            .collect()
    }
}
