//! Sections of the configuration file that refine a policy: keys that are absent are none.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::{
    policy::{FetchFrom, Policy},
    value::{Alpn, Count, Group, Seconds, SignatureAlgorithm, Suite12, Suite13, Version},
};

/// A list whose elements are checked one by one: an error of serde's own would name the list's place.
type Texts = Vec<Spanned<String>>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    pub(super) version_min: Option<Version>,
    pub(super) version_max: Option<Version>,
    pub(super) ciphers: Option<Texts>,
    pub(super) ciphersuites: Option<Texts>,
    pub(super) groups: Option<Texts>,
    pub(super) signature_algorithms: Option<Texts>,
    pub(super) alpn: Option<Texts>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Trust {
    pub(super) system: Option<bool>,
    pub(super) files: Option<Vec<PathBuf>>,
    pub(super) directories: Option<Vec<PathBuf>>,
    pub(super) applications_may_bring_cas: Option<bool>,
    pub(super) verify_depth: Option<Count>,
    pub(super) strict: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Revocation {
    pub(super) checks: Option<bool>,
    pub(super) stapled: Option<bool>,
    pub(super) ocsp: Option<bool>,
    pub(super) crl: Option<bool>,
    pub(super) cached: Option<bool>,
    pub(super) nonce: Option<bool>,
    /// For profiles only.
    pub(super) soft_fail: Option<Spanned<bool>>,
    pub(super) fetch_from: Option<FetchFrom>,
    pub(super) fetch_seconds: Option<Seconds>,
    pub(super) fetch_local: Option<bool>,
    pub(super) close_revoked: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Sessions {
    pub(super) reuse: Option<bool>,
    pub(super) lifetime_seconds: Option<Count>,
    pub(super) tickets: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Time {
    pub(super) connect_seconds: Option<Seconds>,
    pub(super) handshake_seconds: Option<Seconds>,
    pub(super) idle_seconds: Option<Count>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Credentials {
    pub(super) chain: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub(super) sockets: Option<Count>,
    pub(super) sockets_per_user: Option<Count>,
    pub(super) connections: Option<Count>,
    pub(super) connections_per_service: Option<Count>,
    pub(super) connections_per_user: Option<Count>,
    pub(super) handshakes: Option<Count>,
}

/// The limit for the whole machine is nobody's own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProfileLimits {
    pub(super) sockets_per_user: Option<Count>,
}

/// Overrides what the sections have keys for.
pub(super) fn refine(
    policy: &mut Policy,
    tls: &Tls,
    trust: &Trust,
    revocation: &Revocation,
    sessions: &Sessions,
    time: &Time,
    credentials: &Credentials,
) {
    set(&mut policy.tls.version_min, tls.version_min);
    set(&mut policy.tls.version_max, tls.version_max);
    set(&mut policy.tls.ciphers, list(&tls.ciphers, |suite: Suite12| suite.0));
    set(&mut policy.tls.ciphersuites, list(&tls.ciphersuites, |suite: Suite13| suite.0));
    set(&mut policy.tls.groups, list(&tls.groups, |group: Group| group.0));
    set(&mut policy.tls.signature_algorithms, list(&tls.signature_algorithms, |one: SignatureAlgorithm| one.0));
    set(&mut policy.tls.alpn, list(&tls.alpn, |protocol: Alpn| protocol.0));
    set(&mut policy.trust.system, trust.system);
    set(&mut policy.trust.files, trust.files.clone());
    set(&mut policy.trust.directories, trust.directories.clone());
    set(&mut policy.trust.applications_may_bring_cas, trust.applications_may_bring_cas);
    set(&mut policy.trust.verify_depth, trust.verify_depth.map(u64::from));
    set(&mut policy.trust.strict, trust.strict);
    let checks = &mut policy.revocation;
    set(&mut checks.checks, revocation.checks);
    set(&mut checks.stapled, revocation.stapled);
    set(&mut checks.ocsp, revocation.ocsp);
    set(&mut checks.crl, revocation.crl);
    set(&mut checks.cached, revocation.cached);
    set(&mut checks.nonce, revocation.nonce);
    set(&mut checks.soft_fail, revocation.soft_fail.as_ref().map(|soft| *soft.get_ref()));
    set(&mut checks.fetch_from, revocation.fetch_from);
    set(&mut checks.fetch_seconds, revocation.fetch_seconds);
    set(&mut checks.fetch_local, revocation.fetch_local);
    set(&mut checks.close_revoked, revocation.close_revoked);
    set(&mut policy.sessions.reuse, sessions.reuse);
    if let Some(lifetime) = sessions.lifetime_seconds {
        policy.sessions.lifetime_seconds = Some(lifetime.into());
    }
    set(&mut policy.sessions.tickets, sessions.tickets);
    set(&mut policy.time.connect_seconds, time.connect_seconds);
    set(&mut policy.time.handshake_seconds, time.handshake_seconds);
    set(&mut policy.time.idle_seconds, time.idle_seconds.map(u64::from));
    if credentials.chain.is_some() || credentials.key.is_some() {
        policy.credentials.chain.clone_from(&credentials.chain);
        policy.credentials.key.clone_from(&credentials.key);
    }
}

/// The values of a list that was checked.
fn list<T: TryFrom<String>, U>(texts: &Option<Texts>, get: impl Fn(T) -> U) -> Option<Vec<U>> {
    let values = texts.as_ref()?.iter().filter_map(|text| T::try_from(text.get_ref().clone()).ok());
    Some(values.map(get).collect())
}

/// Finds the first text of a list that is no value.
fn check<T: TryFrom<String, Error = String>>(texts: &Option<Texts>) -> Result<(), Wrong> {
    texts.iter().flatten().try_for_each(|text| match T::try_from(text.get_ref().clone()) {
        Ok(_) => Ok(()),
        Err(what) => Err(Wrong { at: Some(text.span().start), what }),
    })
}

impl Revocation {
    /// Whether it lets peers be of which nothing is known.
    pub(super) fn is_soft(&self) -> bool {
        self.soft_fail.as_ref().is_some_and(|soft| *soft.get_ref())
    }
}

impl Tls {
    /// Finds the first text of a list that is no value.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        check::<Suite12>(&self.ciphers)?;
        check::<Suite13>(&self.ciphersuites)?;
        check::<Group>(&self.groups)?;
        check::<SignatureAlgorithm>(&self.signature_algorithms)?;
        check::<Alpn>(&self.alpn)
    }
}

/// Overrides a value, if there is another.
pub(super) fn set<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}

/// A mistake in a configuration, and the byte of the text at which it is.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) at: Option<usize>,
    pub(super) what: String,
}
