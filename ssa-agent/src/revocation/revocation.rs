//! Whether a peer's certificates were revoked.
//!
//! Every certificate of the chain that was verified needs an answer, but the root: from the cache, a stapled response, an OCSP
//! responder, or a CRL, as the program's options and the policy allow. Stapled and cached ones come first; then responders
//! and lists are asked side by side, and the first that has something to say counts. None: no connection.
//!
//! - [`subject`]: a certificate with its issuer, and what it says of where to ask;
//! - [`answer`]: what was said, and for how long it counts;
//! - [`ocsp`], [`crl`]: what a response or a list is worth, by OpenSSL's own verification;
//! - [`inquiry`]: one connection's question; [`servers`]: who is asked, and left alone for a while where that fails;
//! - [`mod@fetch`]: HTTP, within limits; [`cache`]: memory and disk.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::{
    answer::{Status, Way},
    cache::Cache,
    inquiry::Flight,
    servers::{Outcome, Servers},
};
pub(crate) use super::{
    fetch::Origin,
    inquiry::{Inquiry, deadline},
    subject::Subject,
};
use crate::{policy::policy, telemetry::metrics::Metrics};

/// Why a peer is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("certificate revoked{when}: {whose} (says {by})")]
    Revoked { whose: String, when: String, by: Way },
    #[error("revocation can't be checked ({}): {whose}", tried.join("; "))]
    Unanswered { whose: String, tried: Vec<String> },
    #[error("the certificate demands a stapled OCSP response ({why}): {whose}")]
    NotStapled { whose: String, why: String },
    #[error("the peer has no chain to check")]
    NoChain,
    #[error("OpenSSL refused the certificate: {0}")]
    Certificate(#[from] openssl::error::ErrorStack),
}

/// Ways that may answer: options 103 to 106.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ways {
    pub(crate) stapled: bool,
    pub(crate) ocsp: bool,
    pub(crate) crl: bool,
    pub(crate) cached: bool,
}

/// How a context's peers are checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checks {
    pub(crate) ways: Ways,
    pub(crate) policy: policy::Revocation,
}

/// What all connections share.
pub(crate) struct Revocation {
    pub(super) cache: Arc<Cache>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) servers: Servers,
    /// Questions that are under way, which many connections may wait for.
    pub(super) flights: Mutex<HashMap<Flight, watch::Receiver<Option<Outcome>>>>,
}

impl Revocation {
    /// Answers are kept in `folder` as well, if there is one.
    pub(crate) fn new(folder: Option<PathBuf>, metrics: Arc<Metrics>) -> Arc<Self> {
        let cache = Arc::new(Cache::new(folder));
        Arc::new(Self { servers: Servers::new(Arc::clone(&cache)), cache, metrics, flights: Mutex::default() })
    }

    /// For one connection of a program.
    pub(crate) fn inquiry(self: &Arc<Self>, checks: Checks, program: Origin) -> Inquiry {
        let from = match checks.policy.fetch_from {
            policy::FetchFrom::Program => program,
            policy::FetchFrom::Host => Origin::Host,
        };
        Inquiry { revocation: Arc::clone(self), checks, from }
    }

    /// An OCSP response about a certificate of the machine's own, to staple; none if none is at hand.
    pub(crate) fn staple(&self, subject: &Subject) -> Option<Arc<[u8]>> {
        self.cache.staple(&subject.key)?.ocsp
    }

    /// Sees to it that there is something to staple; an error says why there is nothing new.
    pub(crate) async fn refresh_staple(
        self: &Arc<Self>,
        subject: &Subject,
        policy: &policy::Revocation,
        from: Origin,
    ) -> Result<(), String> {
        if self.cache.staple(&subject.key).is_some_and(|answer| !answer.is_ripe()) {
            return Ok(());
        }
        let ways = Ways { stapled: false, ocsp: true, crl: false, cached: true };
        let inquiry = self.inquiry(Checks { ways, policy: policy.clone() }, from);
        let answer = inquiry.ask(subject).await.map_err(|tried| format!("{}: {}", tried.join("; "), subject.name()))?;
        let status = answer.status.clone();
        self.cache.keep_staple(&subject.key, answer);
        match status {
            Status::Good => Ok(()),
            Status::Revoked(when) => Err(format!("the certificate is revoked{when}: {}", subject.name())),
        }
    }
}

/// For fuzzers: nothing that they make is an answer.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(bytes: &[u8], subject: &Subject) {
    use super::{crl, ocsp};
    assert!(ocsp::read(bytes, subject, Way::Ocsp, None).is_err(), "a forged response");
    if let Ok(list) = crl::Crl::read(bytes) {
        assert!(crl::look([&list], subject).is_err(), "a forged CRL");
    }
}
