//! State of revocation checks for all connections: the cache, the servers, and what is asked just now.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::{
    answer::Status,
    cache::Cache,
    check::{Check, InFlightKey},
    checks::{Checks, Sources},
    fetch::Origin,
    servers::{Outcome, Servers},
    subject::Subject,
};
use crate::{policy, telemetry::Metrics};

/// Revocation checks of all connections: the cache, the servers, and what is asked just now.
pub(crate) struct Revocation {
    /// Cache of answers.
    pub(super) cache: Arc<Cache>,
    /// Metrics that count checks.
    pub(super) metrics: Arc<Metrics>,
    /// Servers that certificates name.
    pub(super) servers: Servers,
    /// Questions that are being asked, each with where its outcome will be; many connections may wait for one.
    pub(super) in_flight: Mutex<HashMap<InFlightKey, watch::Receiver<Option<Outcome>>>>,
}

impl Revocation {
    /// Makes the state of one agent. Answers are kept in `folder` as well, if there is one. Blocks: looks at the files
    /// there.
    pub(crate) fn new(folder: Option<PathBuf>, metrics: Arc<Metrics>) -> Arc<Self> {
        let cache = Arc::new(Cache::new(folder));
        Arc::new(Self { servers: Servers::new(Arc::clone(&cache)), cache, metrics, in_flight: Mutex::default() })
    }

    /// Makes the check of one connection; its servers are asked from `application`, or from the host if the policy says
    /// so.
    pub(crate) fn check(self: &Arc<Self>, checks: Checks, application: Origin) -> Check {
        let from = match checks.policy.fetch_from {
            policy::FetchFrom::Application => application,
            policy::FetchFrom::Host => Origin::Host,
        };
        Check { revocation: Arc::clone(self), checks, from }
    }

    /// OCSP response in DER about a certificate of the machine's own, to staple; none if none is at hand. Does not
    /// block.
    pub(crate) fn staple(&self, subject: &Subject) -> Option<Arc<[u8]>> {
        self.cache.staple(&subject.key)?.ocsp
    }

    /// Fetches a response to staple, unless a young one is there. The error says why there is nothing new.
    pub(crate) async fn refresh_staple(
        self: &Arc<Self>,
        subject: &Subject,
        policy: &policy::Revocation,
        from: Origin,
    ) -> Result<(), String> {
        if self.cache.staple(&subject.key).is_some_and(|answer| !answer.needs_refresh()) {
            return Ok(());
        }
        let sources = Sources { stapled: false, ocsp: true, crl: false, cached: true };
        let check = self.check(Checks { sources, policy: policy.clone() }, from);
        let answer = check.ask(subject).await.map_err(|tried| format!("{}: {}", tried.join("; "), subject.name()))?;
        let status = answer.status.clone();
        self.cache.keep_staple(&subject.key, answer);
        match status {
            Status::Good => Ok(()),
            Status::Revoked(when) => Err(format!("the certificate is revoked{when}: {}", subject.name())),
        }
    }
}
