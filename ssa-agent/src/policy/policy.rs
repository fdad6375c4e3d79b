//! What an administrator decides for an application: the sections that are in force, and what they may not say together.

use serde::Serialize;

use super::{
    section::Keys as _,
    sections::{
        Credentials, CredentialsKeys, Limits, Revocation, RevocationKeys, Sessions, SessionsKeys, Time, TimeKeys, Tls,
        TlsKeys, Trust, TrustKeys,
    },
    value::{Seconds, Version},
};
use crate::tls::Suite;

/// What is in force for an application. Printed, it is a file that says the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Policy {
    /// Versions and algorithms.
    pub(crate) tls: Tls,
    /// CAs, and who may bring others.
    pub(crate) trust: Trust,
    /// Checks for revocation.
    pub(crate) revocation: Revocation,
    /// Resumption of sessions.
    pub(crate) sessions: Sessions,
    /// Limits of time.
    pub(crate) time: Time,
    /// Own certificate and key, for applications that bring none.
    pub(crate) credentials: Credentials,
    /// Limits of sockets, connections and handshakes.
    pub(crate) limits: Limits,
}

impl Policy {
    /// Overrides what the sections have keys for.
    pub(super) fn refine(
        &mut self,
        tls: &TlsKeys,
        trust: &TrustKeys,
        revocation: &RevocationKeys,
        sessions: &SessionsKeys,
        time: &TimeKeys,
        credentials: &CredentialsKeys,
    ) {
        tls.refine(&mut self.tls);
        trust.refine(&mut self.trust);
        revocation.refine(&mut self.revocation);
        sessions.refine(&mut self.sessions);
        time.refine(&mut self.time);
        // A chain and its key are of use together only: they replace those before them together.
        if credentials.chain.is_some() || credentials.key.is_some() {
            self.credentials = Credentials::default();
            credentials.refine(&mut self.credentials);
        }
    }

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
