//! Check of one connection: is a certificate of its chain revoked, now or while it is open?

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use openssl::x509::X509;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::warn;

use super::{
    answer::{self, Answer, Source, Status},
    checks::{Checks, Sources},
    error::Error,
    fetch::{Origin, Place},
    ocsp,
    revocation::Revocation,
    servers::Outcome,
    subject::{Key, Subject},
};
use crate::{policy, sync::lock, tls::Staples};

/// Check of one connection: whether a certificate of its chain is revoked, now or while it is open.
pub(crate) struct Check {
    /// Cache, servers and questions that all checks share.
    pub(super) revocation: Arc<Revocation>,
    /// Sources and policy of the connection.
    pub(super) checks: Checks,
    /// Place from which servers are asked.
    pub(super) from: Origin,
}

/// Key of a question: two are the same if they are about one certificate, by the same sources, and from one place.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct InFlightKey {
    key: Key,
    place: Place,
    ocsp: bool,
    crl: bool,
    nonce: bool,
    local: bool,
}

/// Most questions that are being asked: in all, and from one place.
const IN_FLIGHT_MAX: usize = 1024;
const IN_FLIGHT_PER_PLACE_MAX: usize = 128;

/// Time by which a chain must be known to be good, if the handshake may take so long from now: a moment before that is
/// over, so that the error's reason is the right one.
pub(crate) fn deadline(handshake: Duration) -> Instant {
    Instant::now() + handshake - (handshake / 10).min(Duration::from_millis(250))
}

impl Check {
    /// Checks a verified chain, leaf first, and is done by `until`. A resumed handshake brings no staples.
    ///
    /// # Errors
    ///
    /// A certificate is revoked, or nobody says that it is not: unless the policy is soft about the latter.
    pub(crate) async fn check(&self, chain: &[X509], staples: Option<&Staples>, until: Instant) -> Result<(), Error> {
        let subjects = Subject::all(chain)?;
        if chain.is_empty() {
            return Err(Error::NoChain);
        }
        if let (Some(leaf), Some(staples)) = (subjects.first(), staples)
            && leaf.must_be_stapled()
        {
            let stapled = staples.of(&leaf.certificate).ok_or("none was sent".to_owned());
            let read =
                stapled.and_then(|der| ocsp::read(der, leaf, Source::Stapled, None).map_err(|error| error.to_string()));
            read.map_err(|why| Error::NotStapled { whose: leaf.name(), why })?;
        }
        try_join_all(subjects.iter().map(|subject| self.one(subject, staples, until))).await.map(drop)
    }

    async fn one(&self, subject: &Subject, staples: Option<&Staples>, until: Instant) -> Result<(), Error> {
        let left = until.saturating_duration_since(Instant::now());
        let answered = match timeout(left, self.answer(subject, staples)).await {
            Ok(answered) => answered,
            Err(_elapsed) => Err(vec!["no answer before the handshake's limit".to_owned()]),
        };
        let (revocation, soft) = (&self.revocation, self.checks.policy.soft_fail);
        match answered {
            Ok((answer, source)) => {
                // Whatever may answer: that it is revoked is known, and nothing said since takes it back.
                let known = revocation.cache.known(&subject.key);
                let worse = known.filter(|known| known.status != Status::Good && !answer.supersedes(known));
                let answer = worse.unwrap_or(answer);
                match answer.status {
                    Status::Good => {
                        revocation.metrics.asked_of_revocation(source.label(), "good");
                        Ok(())
                    }
                    Status::Revoked(when) => {
                        revocation.metrics.asked_of_revocation(source.label(), "revoked");
                        Err(Error::Revoked { whose: subject.name(), when, by: answer.source })
                    }
                }
            }
            Err(tried) => {
                let error = Error::Unanswered { whose: subject.name(), tried };
                revocation.metrics.asked_of_revocation("none", if soft { "let" } else { "none" });
                if soft {
                    warn!(target: "access", %error, "NOT CHECKED: soft_fail of the policy lets the connection be");
                    return Ok(());
                }
                Err(error)
            }
        }
    }

    /// Gets an answer by the sources that are allowed, with the one that it came by; or for each source the reason why
    /// there is none.
    async fn answer(&self, subject: &Subject, staples: Option<&Staples>) -> Result<(Answer, Source), Vec<String>> {
        let sources = self.checks.sources;
        // Whether it may answer or not: what is on disk is known before anything older can take its place.
        let known = self.revocation.cache.find(subject).await;
        let mut tried = Vec::new();
        if sources.stapled
            && let Some(staples) = staples
        {
            match staples.of(&subject.certificate).map(|der| ocsp::read(der, subject, Source::Stapled, None)) {
                Some(Ok(answer)) => {
                    self.revocation.servers.keep(subject, &answer, self.from.place());
                    return Ok((answer, Source::Stapled));
                }
                Some(Err(error)) => tried.push(format!("{}: {error}", Source::Stapled)),
                None => tried.push(format!("{}: none was sent", Source::Stapled)),
            }
        }
        if sources.cached
            && let Some(answer) = known
        {
            if answer.needs_refresh() && (sources.ocsp || sources.crl) {
                // Nobody waits for the newer one.
                let _wait = self.begin(subject);
            }
            return Ok((answer, Source::Cached));
        }
        if sources.ocsp || sources.crl {
            match self.ask(subject).await {
                Ok(answer) => {
                    let source = answer.source;
                    return Ok((answer, source));
                }
                Err(why) => tried.extend(why),
            }
        }
        if tried.is_empty() {
            let why = if sources.cached { "nothing is cached" } else { "no way to ask is allowed" };
            tried.push(why.to_owned());
        }
        Err(tried)
    }

    /// Whether a chain can do without what is stapled to it, so that its session may be resumed.
    pub(crate) fn needs_no_staple(&self, chain: &[X509]) -> bool {
        let Checks { sources, .. } = self.checks;
        let known = |subject: &Subject| sources.cached && self.revocation.cache.known(&subject.key).is_some();
        let asks = !sources.stapled && (sources.ocsp || sources.crl);
        asks || Subject::all(chain).is_ok_and(|subjects| subjects.iter().all(known))
    }

    /// Asks by OCSP and CRL, or waits for the same question of another connection. Cancellation leaves the question
    /// running.
    pub(super) async fn ask(&self, subject: &Subject) -> Outcome {
        let mut key = self.begin(subject).map_err(|why| vec![why.to_owned()])?;
        let landed = key.wait_for(Option::is_some).await;
        let given_up = || Err(vec!["the question was given up".to_owned()]);
        landed.map_or_else(|_dropped| given_up(), |outcome| outcome.clone().unwrap_or_else(given_up))
    }

    /// Begins a question, unless the same one is being asked, and returns where its outcome will be. Errors: there are
    /// too many questions.
    fn begin(&self, subject: &Subject) -> Result<watch::Receiver<Option<Outcome>>, &'static str> {
        let Self { revocation, checks, from } = self;
        let Sources { ocsp, crl, .. } = checks.sources;
        let policy::Revocation { nonce, fetch_local: local, .. } = checks.policy;
        let key = InFlightKey { key: subject.key, place: from.place(), ocsp, crl, nonce, local };
        let mut in_flight = in_flight(revocation);
        if let Some(same) = in_flight.get(&key) {
            return Ok(same.clone());
        }
        let own = in_flight.keys().filter(|other| other.place == key.place).count();
        if in_flight.len() >= IN_FLIGHT_MAX || own >= IN_FLIGHT_PER_PLACE_MAX {
            return Err("too many certificates are asked about");
        }
        let (land, wait) = watch::channel(None);
        in_flight.insert(key, wait.clone());
        drop(in_flight);
        let guard = InFlightGuard { revocation: Arc::clone(revocation), key };
        let (subject, checks, from) = (subject.clone(), checks.clone(), from.clone());
        // Who has asked first may give up, and the others still wait.
        tokio::spawn(async move {
            let outcome = guard.revocation.servers.ask(&subject, &checks, &from).await;
            drop(guard);
            // Nobody may wait any more.
            let _unwanted = land.send(Some(outcome));
        });
        Ok(wait)
    }

    /// Completes when a certificate of an open connection's chain has been revoked; with whose and when, in words. Asks
    /// again when an answer has run out.
    pub(crate) async fn revoked_later(&self, chain: &[X509]) -> String {
        let Ok(subjects) = Subject::all(chain) else { return std::future::pending().await };
        let cache = &self.revocation.cache;
        let mut news = cache.news();
        loop {
            for subject in &subjects {
                if let Some(Answer { status: Status::Revoked(when), source, .. }) = cache.known(&subject.key) {
                    return Error::Revoked { whose: subject.name(), when, by: source }.to_string();
                }
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return std::future::pending().await },
                () = sleep(self.next_look(&subjects)) => {
                    for subject in subjects.iter().filter(|subject| cache.known(&subject.key).is_none()) {
                        // Stored, if there is one. If there is none, the connection goes on.
                        let _unanswered = self.ask(subject).await;
                    }
                }
            }
        }
    }

    /// Time until the first of the answers runs out, from one minute to one hour.
    fn next_look(&self, subjects: &[Subject]) -> Duration {
        const LEAST: Duration = Duration::from_secs(60);
        const MOST: Duration = Duration::from_secs(3600);
        let left = |subject: &Subject| {
            let until = self.revocation.cache.known(&subject.key).map_or(0, |answer| answer.expires_at);
            Duration::from_secs(until.saturating_sub(answer::now()))
        };
        subjects.iter().map(left).min().unwrap_or(MOST).clamp(LEAST, MOST)
    }

    /// Watches the peer of an open connection: calls `note` when it becomes revoked; completes, with whose and when, if
    /// the policy wants the connection to end. Never completes without a check.
    pub(crate) async fn watch(check: Option<&Self>, chain: &[X509], note: impl FnOnce(&str)) -> String {
        let Some(check) = check else { return std::future::pending().await };
        // Most connections have none, and room for it would be in each.
        let how = Box::pin(check.revoked_later(chain)).await;
        note(&how);
        if check.checks.policy.close_revoked { how } else { std::future::pending().await }
    }
}

/// Guard of a question that is being asked: takes it from the list, however it ends.
struct InFlightGuard {
    revocation: Arc<Revocation>,
    key: InFlightKey,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        in_flight(&self.revocation).remove(&self.key);
    }
}

fn in_flight(revocation: &Revocation) -> MutexGuard<'_, HashMap<InFlightKey, watch::Receiver<Option<Outcome>>>> {
    lock(&revocation.in_flight)
}
