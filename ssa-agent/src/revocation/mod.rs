//! Whether a peer's certificates were revoked.
//!
//! Every certificate of the chain that was verified needs an answer, but the root: from the cache, a stapled response, an OCSP
//! responder, or a CRL, as the program's options and the policy allow. Cached and stapled ones come first; then responders
//! and lists are asked side by side, and the first that has something to say counts. None: no connection.
//!
//! - [`subject`]: a certificate with its issuer, and what it says of where to ask;
//! - [`answer`]: what was said, and for how long it counts;
//! - [`ocsp`], [`crl`]: what a response or a list is worth, by OpenSSL's own verification;
//! - [`fetch`]: HTTP, within limits; [`cache`]: memory and disk.

mod answer;
mod cache;
mod crl;
mod fetch;
mod ocsp;
mod subject;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::try_join_all;
use openssl::x509::X509;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::warn;

use self::{
    answer::{Answer, Status, Way},
    cache::Cache,
    crl::Crl,
    fetch::{Place, Wanted, fetch},
    subject::Key,
};
pub(crate) use self::{fetch::Origin, subject::Subject};
use crate::{metrics::Metrics, policy, tls::staples::Staples};

/// Why a peer is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("certificate revoked{when}: {whose} (says {by})")]
    Revoked { whose: String, when: String, by: Way },
    #[error("revocation can't be checked ({}): {whose}", tried.join("; "))]
    Unanswered { whose: String, tried: Vec<String> },
    #[error("the certificate demands a stapled OCSP response ({why}): {whose}")]
    NotStapled { whose: String, why: String },
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
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    /// Questions that are under way, which many connections may wait for.
    flights: Mutex<HashMap<Flight, watch::Receiver<Option<Outcome>>>>,
    /// Servers that have failed: until when they are not asked again, how often they have failed, and how.
    troubles: Mutex<HashMap<(Place, String), Trouble>>,
}

/// Questions are the same if they are about one certificate, by the same ways, and from one place.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Flight {
    key: Key,
    place: Place,
    ocsp: bool,
    crl: bool,
    nonce: bool,
    local: bool,
}

/// The answer; or for each way why there is none.
type Outcome = Result<Answer, Vec<String>>;

struct Trouble {
    until: Instant,
    times: u32,
    what: String,
}

/// How long a server that has failed is left alone: at first, and at most.
const LEFT_ALONE: Duration = Duration::from_secs(15);
const LEFT_ALONE_MOST: Duration = Duration::from_secs(600);
/// Servers that have failed, at most; at one more those that may be asked again go.
const TROUBLES: usize = 1 << 12;
/// Longest response and list, in bytes.
const OCSP_BYTES: usize = 256 << 10;
const CRL_BYTES: usize = 32 << 20;

/// What one connection asks.
pub(crate) struct Inquiry {
    revocation: Arc<Revocation>,
    checks: Checks,
    from: Origin,
    /// How long the handshake may take, and the answers with it.
    limit: Duration,
}

impl Revocation {
    /// Answers are kept in `folder` as well, if there is one.
    pub(crate) fn new(folder: Option<PathBuf>, metrics: Arc<Metrics>) -> Arc<Self> {
        let (flights, troubles) = (Mutex::default(), Mutex::default());
        Arc::new(Self { cache: Arc::new(Cache::new(folder)), metrics, flights, troubles })
    }

    /// For one connection of a program, whose handshake may take so long.
    pub(crate) fn inquiry(self: &Arc<Self>, checks: Checks, program: Origin, limit: Duration) -> Inquiry {
        let from = match checks.policy.fetch_from {
            policy::FetchFrom::Program => program,
            policy::FetchFrom::Host => Origin::Host,
        };
        Inquiry { revocation: Arc::clone(self), checks, from, limit }
    }

    /// An OCSP response about a certificate of the machine's own, to staple; none if none is at hand.
    pub(crate) fn staple(&self, subject: &Subject) -> Option<Arc<[u8]>> {
        self.cache.known(&subject.key)?.ocsp
    }

    /// Sees to it that there is something to staple; an error says why there is nothing new.
    pub(crate) async fn refresh_staple(
        self: &Arc<Self>,
        subject: &Subject,
        policy: &policy::Revocation,
        from: Origin,
    ) -> Result<(), String> {
        if self.cache.find(subject).await.is_some_and(|answer| answer.ocsp.is_some() && !answer.is_ripe()) {
            return Ok(());
        }
        let ways = Ways { stapled: false, ocsp: true, crl: false, cached: true };
        let inquiry = self.inquiry(Checks { ways, policy: policy.clone() }, from, policy.fetch_seconds.get());
        match inquiry.ask(subject).await {
            Ok(Answer { status: Status::Revoked(when), .. }) => {
                Err(format!("the certificate is revoked{when}: {}", subject.name()))
            }
            Ok(_good) => Ok(()),
            Err(tried) => Err(format!("{}: {}", tried.join("; "), subject.name())),
        }
    }

    fn lock<'a, T>(&self, what: &'a Mutex<T>) -> MutexGuard<'a, T> {
        what.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a server is not asked just now.
    fn trouble(&self, place: Place, url: &str) -> Result<(), String> {
        let troubles = self.lock(&self.troubles);
        match troubles.get(&(place, url.to_owned())) {
            Some(trouble) if trouble.until > Instant::now() => Err(format!("{}, a moment ago", trouble.what)),
            Some(_) | None => Ok(()),
        }
    }

    /// A server has failed, or not.
    fn note(&self, place: Place, url: &str, failed: Option<&str>) {
        let mut troubles = self.lock(&self.troubles);
        let key = (place, url.to_owned());
        let Some(what) = failed else {
            troubles.remove(&key);
            return;
        };
        if troubles.len() >= TROUBLES && !troubles.contains_key(&key) {
            troubles.retain(|_key, trouble| trouble.until > Instant::now());
            if troubles.len() >= TROUBLES {
                return;
            }
        }
        let times = troubles.get(&key).map_or(0, |trouble| trouble.times);
        let pause = LEFT_ALONE.saturating_mul(1 << times.min(10)).min(LEFT_ALONE_MOST);
        let trouble = Trouble { until: Instant::now() + pause, times: times + 1, what: what.to_owned() };
        troubles.insert(key, trouble);
    }

    /// Asks responders and lists side by side.
    async fn fly(&self, subject: &Subject, checks: &Checks, from: &Origin) -> Outcome {
        let (policy, ways) = (&checks.policy, checks.ways);
        let ocsp = async {
            let asked = if ways.ocsp { self.by_ocsp(subject, policy, from).await } else { return Err(Vec::new()) };
            asked.map_err(|why| vec![format!("{}: {why}", Way::Ocsp)])
        };
        let crl = async {
            let asked = if ways.crl { self.by_crl(subject, policy, from).await } else { return Err(Vec::new()) };
            asked.map_err(|why| vec![format!("{}: {why}", Way::Crl)])
        };
        tokio::pin!(ocsp, crl);
        let both = |mut first: Vec<String>, second: Vec<String>| {
            first.extend(second);
            first
        };
        tokio::select! {
            said = &mut ocsp => match said {
                Ok(answer) => Ok(answer),
                Err(why) => crl.await.map_err(|more| both(why, more)),
            },
            said = &mut crl => match said {
                Ok(answer) => Ok(answer),
                Err(why) => ocsp.await.map_err(|more| both(more, why)),
            },
        }
    }

    /// Fetches from one server, unless it has just failed; notes if it fails, or if `judge` has nothing good to say.
    async fn ask_server<T>(
        &self,
        policy: &policy::Revocation,
        from: &Origin,
        wanted: Wanted<'_>,
        judge: impl AsyncFnOnce(Bytes) -> Result<T, (bool, String)>,
    ) -> Result<T, String> {
        let (place, url, limit) = (from.place(), wanted.url, policy.fetch_seconds.get());
        self.trouble(place, url)?;
        let fetched = match timeout(limit, fetch(from, &wanted)).await {
            Ok(fetched) => fetched,
            Err(_elapsed) => Err(format!("no answer within {} s", limit.as_secs_f32())),
        };
        let judged = match fetched {
            Ok(bytes) => judge(bytes).await,
            Err(why) => Err((true, why)),
        };
        self.note(
            place,
            url,
            judged.as_ref().err().filter(|(its_fault, _why)| *its_fault).map(|(_, why)| why.as_str()),
        );
        judged.map_err(|(_its_fault, why)| why)
    }

    async fn by_ocsp(&self, subject: &Subject, policy: &policy::Revocation, from: &Origin) -> Result<Answer, String> {
        let request = ocsp::request(subject, policy.nonce).map_err(|error| error.to_string())?;
        let question = Bytes::from(request.to_der().map_err(|error| error.to_string())?);
        let mut last = "the certificate names no responder".to_owned();
        for url in subject.responders() {
            let wanted = Wanted {
                url: &url,
                question: Some(question.clone()),
                types: ("application/ocsp-request", "application/ocsp-response"),
                most: OCSP_BYTES,
                local: policy.fetch_local,
            };
            let asked = policy.nonce.then_some(&request);
            let judge = async |bytes: Bytes| {
                ocsp::read(&bytes, subject, Way::Ocsp, asked)
                    .map_err(|error| (!matches!(error, ocsp::Error::Unknown), error.to_string()))
            };
            match self.ask_server(policy, from, wanted, judge).await {
                Ok(answer) => {
                    let (cache, key, own) = (Arc::clone(&self.cache), subject.key, answer.clone());
                    // Written in the background: the answer counts at once.
                    tokio::task::spawn_blocking(move || cache.keep(&key, &own));
                    return Ok(answer);
                }
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    async fn by_crl(&self, subject: &Subject, policy: &policy::Revocation, from: &Origin) -> Result<Answer, String> {
        let mut last = "the certificate names no CRL".to_owned();
        let mut lists: Vec<Arc<Crl>> = Vec::new();
        for url in subject.lists() {
            let wanted = Wanted {
                url: &url,
                question: None,
                types: ("", "application/pkix-crl"),
                most: CRL_BYTES,
                local: policy.fetch_local,
            };
            let before = lists.clone();
            let judge = async |bytes: Bytes| {
                let own = subject.clone();
                // Parsing megabytes, and hashing them.
                let looked = tokio::task::spawn_blocking(move || {
                    let list = Arc::new(Crl::read(&bytes)?);
                    let all = before.iter().chain([&list]).map(|list| &**list);
                    let answer = crl::look(all, &own);
                    Ok((list, answer))
                });
                match looked.await {
                    Ok(Ok(both)) => Ok(both),
                    Ok(Err(why)) => Err((true, why)),
                    Err(error) => Err((false, error.to_string())),
                }
            };
            match self.ask_server(policy, from, wanted, judge).await {
                Ok((list, Ok(answer))) => {
                    let cache = Arc::clone(&self.cache);
                    self.cache.put(&subject.key, answer.clone());
                    tokio::task::spawn_blocking(move || cache.keep_list(&url, list));
                    return Ok(answer);
                }
                // One for some reasons only: with another one it may be enough.
                Ok((list, Err(why))) => {
                    lists.push(list);
                    last = why;
                }
                Err(why) => last = why,
            }
        }
        Err(last)
    }
}

impl Inquiry {
    /// Checks a verified chain, leaf first. A resumed handshake brings no staples.
    ///
    /// # Errors
    ///
    /// A certificate is revoked, or nobody says that it is not: unless the policy is soft about the latter.
    pub(crate) async fn check(&self, chain: &[X509], staples: Option<&Staples>, began: Instant) -> Result<(), Error> {
        let until = began + self.limit;
        let subjects = Subject::all(chain)?;
        if let (Some(leaf), Some(staples)) = (subjects.first(), staples)
            && leaf.must_be_stapled()
        {
            let whose = || leaf.name();
            let stapled = staples.of(&leaf.certificate).ok_or("none was sent".to_owned());
            let read =
                stapled.and_then(|der| ocsp::read(der, leaf, Way::Stapled, None).map_err(|error| error.to_string()));
            read.map_err(|why| Error::NotStapled { whose: whose(), why })?;
        }
        try_join_all(subjects.iter().map(|subject| self.one(subject, staples, until))).await.map(drop)
    }

    async fn one(&self, subject: &Subject, staples: Option<&Staples>, until: Instant) -> Result<(), Error> {
        match self.answer(subject, staples, until).await {
            Ok((answer, way)) => {
                let metrics = &self.revocation.metrics;
                match answer.status {
                    Status::Good => {
                        metrics.asked_of_revocation(way.label(), "good");
                        Ok(())
                    }
                    Status::Revoked(when) => {
                        metrics.asked_of_revocation(way.label(), "revoked");
                        Err(Error::Revoked { whose: subject.name(), when, by: answer.way })
                    }
                }
            }
            Err(tried) => {
                let error = Error::Unanswered { whose: subject.name(), tried };
                self.revocation
                    .metrics
                    .asked_of_revocation("none", if self.checks.policy.soft_fail { "let" } else { "none" });
                if self.checks.policy.soft_fail {
                    warn!(target: "access", %error, "NOT CHECKED: soft_fail of the policy lets the connection be");
                    return Ok(());
                }
                Err(error)
            }
        }
    }

    /// An answer, and the way that it came by.
    async fn answer(
        &self,
        subject: &Subject,
        staples: Option<&Staples>,
        until: Instant,
    ) -> Result<(Answer, Way), Vec<String>> {
        let (ways, cache) = (self.checks.ways, &self.revocation.cache);
        let mut tried = Vec::new();
        if ways.cached
            && let Some(answer) = cache.find(subject).await
        {
            if answer.is_ripe() && (ways.ocsp || ways.crl) {
                // Nobody waits for the newer one.
                drop(self.begin(subject));
            }
            return Ok((answer, Way::Cached));
        }
        if ways.stapled
            && let Some(staples) = staples
        {
            match staples.of(&subject.certificate).map(|der| ocsp::read(der, subject, Way::Stapled, None)) {
                Some(Ok(answer)) => {
                    let (cache, key, own) = (Arc::clone(cache), subject.key, answer.clone());
                    tokio::task::spawn_blocking(move || cache.keep(&key, &own));
                    return Ok((answer, Way::Stapled));
                }
                Some(Err(error)) => tried.push(format!("{}: {error}", Way::Stapled)),
                None => tried.push(format!("{}: none was sent", Way::Stapled)),
            }
        }
        if ways.ocsp || ways.crl {
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left, self.ask(subject)).await {
                Ok(Ok(answer)) => {
                    let way = answer.way;
                    return Ok((answer, way));
                }
                Ok(Err(why)) => tried.extend(why),
                Err(_elapsed) => tried.push("no answer before the handshake's limit".to_owned()),
            }
        }
        if tried.is_empty() {
            tried.push("no way to ask is allowed".to_owned());
        }
        Err(tried)
    }

    /// Asks by OCSP and CRL, or waits for who asks already.
    async fn ask(&self, subject: &Subject) -> Outcome {
        let mut flight = self.begin(subject);
        let said = flight.wait_for(Option::is_some).await;
        let gone = || Err(vec!["the question was given up".to_owned()]);
        said.map_or_else(|_dropped| gone(), |said| said.clone().unwrap_or_else(gone))
    }

    fn begin(&self, subject: &Subject) -> watch::Receiver<Option<Outcome>> {
        let Self { revocation, checks, from, .. } = self;
        let Ways { ocsp, crl, .. } = checks.ways;
        let policy::Revocation { nonce, fetch_local: local, .. } = checks.policy;
        let flight = Flight { key: subject.key, place: from.place(), ocsp, crl, nonce, local };
        let mut flights = revocation.lock(&revocation.flights);
        if let Some(same) = flights.get(&flight) {
            return same.clone();
        }
        let (land, wait) = watch::channel(None);
        flights.insert(flight, wait.clone());
        drop(flights);
        let landed = Landed { revocation: Arc::clone(revocation), flight };
        let (subject, checks, from) = (subject.clone(), checks.clone(), from.clone());
        // Who has asked first may give up, and the others still wait.
        tokio::spawn(async move {
            let outcome = landed.revocation.fly(&subject, &checks, &from).await;
            drop(landed);
            // Nobody may wait any more.
            let _unwanted = land.send(Some(outcome));
        });
        wait
    }

    /// Completes when a certificate of an open connection's chain has been revoked; with when and whose, in words. Asks again
    /// when an answer has run out.
    pub(crate) async fn revoked_later(&self, chain: &[X509]) -> String {
        let Ok(subjects) = Subject::all(chain) else { return std::future::pending().await };
        let cache = &self.revocation.cache;
        let mut news = cache.news();
        loop {
            for subject in &subjects {
                if let Some(Answer { status: Status::Revoked(when), way, .. }) = cache.known(&subject.key) {
                    return Error::Revoked { whose: subject.name(), when, by: way }.to_string();
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

    /// When the first of the answers has run out.
    fn next_look(&self, subjects: &[Subject]) -> Duration {
        const LEAST: Duration = Duration::from_secs(60);
        const MOST: Duration = Duration::from_secs(3600);
        let left = |subject: &Subject| {
            let until = self.revocation.cache.known(&subject.key).map_or(0, |answer| answer.until);
            Duration::from_secs(until.saturating_sub(answer::now()))
        };
        subjects.iter().map(left).min().unwrap_or(MOST).clamp(LEAST, MOST)
    }

    /// Notes when the peer of an open connection becomes revoked; completes, with when and whose, if the policy wants the
    /// connection to end.
    pub(crate) async fn watch(inquiry: Option<&Self>, chain: &[X509], note: impl FnOnce(&str)) -> String {
        let Some(inquiry) = inquiry else { return std::future::pending().await };
        // Most connections have none, and room for it would be in each.
        let how = Box::pin(inquiry.revoked_later(chain)).await;
        note(&how);
        if inquiry.checks.policy.close_revoked { how } else { std::future::pending().await }
    }
}

/// Takes a question that is over from those under way, however it ends.
struct Landed {
    revocation: Arc<Revocation>,
    flight: Flight,
}

impl Drop for Landed {
    fn drop(&mut self) {
        self.revocation.lock(&self.revocation.flights).remove(&self.flight);
    }
}
