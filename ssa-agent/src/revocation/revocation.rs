//! Revocation for all connections: the cache, the servers, and what is asked just now.

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

/// Revocation for all connections: the cache, the servers, and what is asked just now.
pub(crate) struct Revocation {
    pub(super) cache: Arc<Cache>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) servers: Servers,
    /// Questions that are under source, which many connections may wait for.
    pub(super) in_flight: Mutex<HashMap<InFlightKey, watch::Receiver<Option<Outcome>>>>,
}

impl Revocation {
    /// Answers are kept in `folder` as well, if there is one.
    pub(crate) fn new(folder: Option<PathBuf>, metrics: Arc<Metrics>) -> Arc<Self> {
        let cache = Arc::new(Cache::new(folder));
        Arc::new(Self { servers: Servers::new(Arc::clone(&cache)), cache, metrics, in_flight: Mutex::default() })
    }

    /// The check of one connection of an application.
    pub(crate) fn check(self: &Arc<Self>, checks: Checks, application: Origin) -> Check {
        let from = match checks.policy.fetch_from {
            policy::FetchFrom::Application => application,
            policy::FetchFrom::Host => Origin::Host,
        };
        Check { revocation: Arc::clone(self), checks, from }
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
