//! Whether a peer's certificates were revoked.
//!
//! Every certificate of the chain that was verified needs an answer, but the root: from the cache, a stapled response, an OCSP
//! responder, or a CRL, as the program's options and the policy allow. Stapled and cached ones come first; then responders
//! and lists are asked side by side, and the first that has something to say counts. None: no connection.
//!
//! - [`subject`]: a certificate with its issuer, and what it says of where to ask;
//! - [`answer`]: what was said, and for how long it counts;
//! - [`ocsp`], [`crl`]: what a response or a list is worth, by OpenSSL's own verification;
//! - [`mod@fetch`]: HTTP, within limits; [`cache`]: memory and disk.

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
    sync::{Semaphore, watch},
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
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    /// Questions that are under way, which many connections may wait for.
    flights: Mutex<HashMap<Flight, watch::Receiver<Option<Outcome>>>>,
    /// What has failed, and is left alone for a while.
    troubles: Mutex<HashMap<Failing, Trouble>>,
    /// One permit for each CRL that is being fetched: they are large.
    lists: Semaphore,
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

/// A server that is not to be reached from a place; or that has no good answer about one certificate. What it says of one
/// is nothing against it where others are concerned.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Failing {
    place: Place,
    url: String,
    about: Option<(Key, bool)>,
}

struct Trouble {
    until: Instant,
    times: u32,
    what: String,
}

/// How long what has failed is left alone: at first, and at most.
const LEFT_ALONE: Duration = Duration::from_secs(15);
const LEFT_ALONE_MOST: Duration = Duration::from_secs(600);
/// Servers that have failed, at most; at one more those that may be asked again go.
const TROUBLES: usize = 1 << 12;
/// Longest response and list, in bytes.
const OCSP_BYTES: usize = 64 << 10;
const CRL_BYTES: usize = 32 << 20;
/// Questions under way: in all, and from one place.
const FLIGHTS: usize = 1024;
const FLIGHTS_OF_PLACE: usize = 128;
/// CRLs that are fetched at once.
const LISTS: usize = 4;

/// By when a chain must be known to be good, if the handshake may take so long: a moment before that is over, so that the reason
/// is the right one.
pub(crate) fn deadline(handshake: Duration) -> Instant {
    Instant::now() + handshake - (handshake / 10).min(Duration::from_millis(250))
}

/// What one connection asks.
pub(crate) struct Inquiry {
    revocation: Arc<Revocation>,
    checks: Checks,
    from: Origin,
}

impl Revocation {
    /// Answers are kept in `folder` as well, if there is one.
    pub(crate) fn new(folder: Option<PathBuf>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            cache: Arc::new(Cache::new(folder)),
            metrics,
            flights: Mutex::default(),
            troubles: Mutex::default(),
            lists: Semaphore::new(LISTS),
        })
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

    fn lock<'a, T>(&self, what: &'a Mutex<T>) -> MutexGuard<'a, T> {
        what.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why something is left alone just now.
    fn trouble(&self, what: &Failing) -> Result<(), String> {
        match self.lock(&self.troubles).get(what) {
            Some(trouble) if trouble.until > Instant::now() => Err(format!("{}, a moment ago", trouble.what)),
            Some(_) | None => Ok(()),
        }
    }

    fn went_well(&self, what: &Failing) {
        self.lock(&self.troubles).remove(what);
    }

    fn failed(&self, what: Failing, why: &str) {
        let (mut troubles, now) = (self.lock(&self.troubles), Instant::now());
        if troubles.len() >= TROUBLES && !troubles.contains_key(&what) {
            troubles.retain(|_what, trouble| trouble.until > now);
            if troubles.len() >= TROUBLES {
                return;
            }
        }
        let times = match troubles.get(&what) {
            // Of many questions at once the first counts.
            Some(trouble) if trouble.until > now => return,
            Some(trouble) => trouble.times + 1,
            None => 0,
        };
        let pause = LEFT_ALONE.saturating_mul(1 << times.min(10)).min(LEFT_ALONE_MOST);
        troubles.insert(what, Trouble { until: now + pause, times, what: why.to_owned() });
    }

    /// Asks responders and lists side by side.
    async fn fly(&self, subject: &Subject, checks: &Checks, from: &Origin) -> Outcome {
        // What is on disk is known before anything older can take its place.
        let _before = self.cache.find(subject).await;
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

    /// Fetches from one server, unless it has just failed, and lets `judge` say what the answer is worth: an error with `true`
    /// is one that asking again would not mend soon.
    async fn ask_server<T>(
        &self,
        subject: &Subject,
        policy: &policy::Revocation,
        from: &Origin,
        wanted: Wanted<'_>,
        judge: impl AsyncFnOnce(Bytes) -> Result<T, (bool, String)>,
    ) -> Result<T, String> {
        let server = Failing { place: from.place(), url: wanted.url.to_owned(), about: None };
        let answer = Failing { about: Some((subject.key, policy.nonce)), ..server.clone() };
        self.trouble(&server)?;
        self.trouble(&answer)?;
        let limit = policy.fetch_seconds.get();
        let bytes = match timeout(limit, fetch(from, &wanted)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(fetch::Error::NotAsked(why))) => return Err(why),
            Ok(Err(fetch::Error::Failed(why))) => {
                self.failed(server, &why);
                return Err(why);
            }
            Err(_elapsed) => {
                let why = format!("no answer within {} s", limit.as_secs_f32());
                self.failed(server, &why);
                return Err(why);
            }
        };
        self.went_well(&server);
        match judge(bytes).await {
            Ok(judged) => {
                self.went_well(&answer);
                Ok(judged)
            }
            Err((lasts, why)) => {
                if lasts {
                    self.failed(answer, &why);
                }
                Err(why)
            }
        }
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
            match self.ask_server(subject, policy, from, wanted, judge).await {
                Ok(answer) => {
                    self.keep(subject, &answer, from.place());
                    return Ok(answer);
                }
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Takes an answer in at once, and writes it in the background.
    fn keep(&self, subject: &Subject, answer: &Answer, place: Place) {
        if self.cache.put(&subject.key, answer.clone(), Some(place)) {
            let (cache, key, own) = (Arc::clone(&self.cache), subject.key, answer.clone());
            tokio::task::spawn_blocking(move || cache.store(&key, &own));
        }
    }

    async fn by_crl(&self, subject: &Subject, policy: &policy::Revocation, from: &Origin) -> Result<Answer, String> {
        let mut last = "the certificate names no CRL".to_owned();
        let mut lists: Vec<(Key, Arc<Crl>)> = Vec::new();
        for url in subject.lists() {
            let wanted = Wanted {
                url: &url,
                question: None,
                types: ("", "application/pkix-crl"),
                most: CRL_BYTES,
                local: policy.fetch_local,
            };
            let before: Vec<Arc<Crl>> = lists.iter().map(|(_key, list)| Arc::clone(list)).collect();
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
            let _permit = self.lists.acquire().await;
            match self.ask_server(subject, policy, from, wanted, judge).await {
                Ok((list, answer)) => {
                    lists.push((subject.list_key(&url), list));
                    match answer {
                        Ok(answer) => {
                            self.keep(subject, &answer, from.place());
                            let cache = Arc::clone(&self.cache);
                            tokio::task::spawn_blocking(move || {
                                lists.into_iter().for_each(|(key, list)| cache.keep_list(&key, list));
                            });
                            return Ok(answer);
                        }
                        // One for some reasons only: with another one it may be enough.
                        Err(why) => last = why,
                    }
                }
                Err(why) => last = why,
            }
        }
        Err(last)
    }
}

impl Inquiry {
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
                stapled.and_then(|der| ocsp::read(der, leaf, Way::Stapled, None).map_err(|error| error.to_string()));
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
            Ok((answer, way)) => {
                // Whatever may answer: that it is revoked is known, and nothing said since takes it back.
                let known = revocation.cache.known(&subject.key);
                let worse = known.filter(|known| known.status != Status::Good && !answer.supersedes(known));
                let answer = worse.unwrap_or(answer);
                match answer.status {
                    Status::Good => {
                        revocation.metrics.asked_of_revocation(way.label(), "good");
                        Ok(())
                    }
                    Status::Revoked(when) => {
                        revocation.metrics.asked_of_revocation(way.label(), "revoked");
                        Err(Error::Revoked { whose: subject.name(), when, by: answer.way })
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

    /// An answer, and the way that it came by.
    async fn answer(&self, subject: &Subject, staples: Option<&Staples>) -> Result<(Answer, Way), Vec<String>> {
        let ways = self.checks.ways;
        // Whether it may answer or not: what is on disk is known before anything older can take its place.
        let known = self.revocation.cache.find(subject).await;
        let mut tried = Vec::new();
        if ways.stapled
            && let Some(staples) = staples
        {
            match staples.of(&subject.certificate).map(|der| ocsp::read(der, subject, Way::Stapled, None)) {
                Some(Ok(answer)) => {
                    self.revocation.keep(subject, &answer, self.from.place());
                    return Ok((answer, Way::Stapled));
                }
                Some(Err(error)) => tried.push(format!("{}: {error}", Way::Stapled)),
                None => tried.push(format!("{}: none was sent", Way::Stapled)),
            }
        }
        if ways.cached
            && let Some(answer) = known
        {
            if answer.is_ripe() && (ways.ocsp || ways.crl) {
                // Nobody waits for the newer one.
                let _wait = self.begin(subject);
            }
            return Ok((answer, Way::Cached));
        }
        if ways.ocsp || ways.crl {
            match self.ask(subject).await {
                Ok(answer) => {
                    let way = answer.way;
                    return Ok((answer, way));
                }
                Err(why) => tried.extend(why),
            }
        }
        if tried.is_empty() {
            let why = if ways.cached { "nothing is cached" } else { "no way to ask is allowed" };
            tried.push(why.to_owned());
        }
        Err(tried)
    }

    /// Whether a chain can do without what is stapled to it, so that its session may be resumed.
    pub(crate) fn needs_no_staple(&self, chain: &[X509]) -> bool {
        let Checks { ways, .. } = self.checks;
        let known = |subject: &Subject| ways.cached && self.revocation.cache.known(&subject.key).is_some();
        let asks = !ways.stapled && (ways.ocsp || ways.crl);
        asks || Subject::all(chain).is_ok_and(|subjects| subjects.iter().all(known))
    }

    /// Asks by OCSP and CRL, or waits for who asks already.
    async fn ask(&self, subject: &Subject) -> Outcome {
        let mut flight = self.begin(subject).map_err(|why| vec![why.to_owned()])?;
        let said = flight.wait_for(Option::is_some).await;
        let gone = || Err(vec!["the question was given up".to_owned()]);
        said.map_or_else(|_dropped| gone(), |said| said.clone().unwrap_or_else(gone))
    }

    /// An error if there are too many questions.
    fn begin(&self, subject: &Subject) -> Result<watch::Receiver<Option<Outcome>>, &'static str> {
        let Self { revocation, checks, from } = self;
        let Ways { ocsp, crl, .. } = checks.ways;
        let policy::Revocation { nonce, fetch_local: local, .. } = checks.policy;
        let flight = Flight { key: subject.key, place: from.place(), ocsp, crl, nonce, local };
        let mut flights = revocation.lock(&revocation.flights);
        if let Some(same) = flights.get(&flight) {
            return Ok(same.clone());
        }
        let own = flights.keys().filter(|other| other.place == flight.place).count();
        if flights.len() >= FLIGHTS || own >= FLIGHTS_OF_PLACE {
            return Err("too many certificates are asked about");
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
        Ok(wait)
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

/// For fuzzers: nothing that they make is an answer.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(bytes: &[u8], subject: &Subject) {
    assert!(ocsp::read(bytes, subject, Way::Ocsp, None).is_err(), "a forged response");
    if let Ok(list) = Crl::read(bytes) {
        assert!(crl::look([&list], subject).is_err(), "a forged CRL");
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
