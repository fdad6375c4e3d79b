//! Questions to servers: responders and lists are asked side by side, and what has failed is left alone for a while.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    answer::{Answer, Source},
    cache::Cache,
    checks::Checks,
    crl::{self, Crl},
    fetch::{self, FetchRequest, Origin, Place, fetch},
    ocsp,
    subject::{Key, Subject},
};
use crate::policy;
use crate::sync::lock;

/// Servers that certificates name.
pub(super) struct Servers {
    /// Cache that takes their answers in.
    cache: Arc<Cache>,
    /// Servers that have failed, and are left alone for a while.
    backoffs: Mutex<HashMap<BackoffKey, Backoff>>,
    /// Permits to fetch a CRL, one for each: they are large.
    lists: Semaphore,
}

/// Outcome of a question: the answer, or for each source the reason why there is none.
pub(super) type Outcome = Result<Answer, Vec<String>>;

/// Key of a server that can't be reached from a place; or of one that has no good answer about one certificate, which
/// is nothing against it where others are concerned.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct BackoffKey {
    place: Place,
    url: String,
    about: Option<(Key, bool)>,
}

struct Backoff {
    until: Instant,
    times: u32,
    what: String,
}

/// Pause after a failure: the first, and the longest.
const LEFT_ALONE: Duration = Duration::from_secs(15);
const LEFT_ALONE_MOST: Duration = Duration::from_secs(600);
/// Most failures that are noted; at one more those whose pause is over go.
const BACKOFFS_MAX: usize = 1 << 12;
/// Longest response and longest list, in bytes.
const OCSP_BYTES: usize = 64 << 10;
const CRL_BYTES: usize = 32 << 20;
/// Most CRLs that are fetched at once.
const LISTS: usize = 4;

impl Servers {
    /// Makes the servers of one agent, none of which has failed yet.
    pub(super) fn new(cache: Arc<Cache>) -> Self {
        Self { cache, backoffs: Mutex::default(), lists: Semaphore::new(LISTS) }
    }

    /// Asks responders and lists side by side; the first good answer counts.
    pub(super) async fn ask(&self, subject: &Subject, checks: &Checks, from: &Origin) -> Outcome {
        // What is on disk is known before anything older can take its place.
        let _before = self.cache.find(subject).await;
        let (policy, sources) = (&checks.policy, checks.sources);
        let ocsp = async {
            let asked = if sources.ocsp { self.by_ocsp(subject, policy, from).await } else { return Err(Vec::new()) };
            asked.map_err(|why| vec![format!("{}: {why}", Source::Ocsp)])
        };
        let crl = async {
            let asked = if sources.crl { self.by_crl(subject, policy, from).await } else { return Err(Vec::new()) };
            asked.map_err(|why| vec![format!("{}: {why}", Source::Crl)])
        };
        tokio::pin!(ocsp, crl);
        let both = |mut first: Vec<String>, second: Vec<String>| {
            first.extend(second);
            first
        };
        tokio::select! {
            outcome = &mut ocsp => match outcome {
                Ok(answer) => Ok(answer),
                Err(why) => crl.await.map_err(|more| both(why, more)),
            },
            outcome = &mut crl => match outcome {
                Ok(answer) => Ok(answer),
                Err(why) => ocsp.await.map_err(|more| both(more, why)),
            },
        }
    }

    /// Fetches from one server, unless it has just failed, and lets `judge` verify the answer: an error with `true` is
    /// one that asking again would not mend soon.
    async fn ask_server<T>(
        &self,
        subject: &Subject,
        policy: &policy::Revocation,
        from: &Origin,
        wanted: FetchRequest<'_>,
        judge: impl AsyncFnOnce(Bytes) -> Result<T, (bool, String)>,
    ) -> Result<T, String> {
        let server = BackoffKey { place: from.place(), url: wanted.url.to_owned(), about: None };
        let answer = BackoffKey { about: Some((subject.key, policy.nonce)), ..server.clone() };
        self.backoff(&server)?;
        self.backoff(&answer)?;
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
            let wanted = FetchRequest {
                url: &url,
                question: Some(question.clone()),
                types: ("application/ocsp-request", "application/ocsp-response"),
                most: OCSP_BYTES,
                local: policy.fetch_local,
            };
            let asked = policy.nonce.then_some(&request);
            let judge = async |bytes: Bytes| {
                ocsp::read(&bytes, subject, Source::Ocsp, asked)
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

    /// Takes an answer in at once, and writes it to disk in the background.
    pub(super) fn keep(&self, subject: &Subject, answer: &Answer, place: Place) {
        if self.cache.put(&subject.key, answer.clone(), Some(place)) {
            let (cache, key, own) = (Arc::clone(&self.cache), subject.key, answer.clone());
            tokio::task::spawn_blocking(move || cache.store(&key, &own));
        }
    }

    async fn by_crl(&self, subject: &Subject, policy: &policy::Revocation, from: &Origin) -> Result<Answer, String> {
        let mut last = "the certificate names no CRL".to_owned();
        let mut lists: Vec<(Key, Arc<Crl>)> = Vec::new();
        for url in subject.lists() {
            let wanted = FetchRequest {
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
                    let answer = crl::look_up(all, &own);
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

    /// Checks whether a server is left alone just now; the error is its failure.
    fn backoff(&self, what: &BackoffKey) -> Result<(), String> {
        match self.backoffs().get(what) {
            Some(backoff) if backoff.until > Instant::now() => Err(format!("{}, a moment ago", backoff.what)),
            Some(_) | None => Ok(()),
        }
    }

    fn went_well(&self, what: &BackoffKey) {
        self.backoffs().remove(what);
    }

    fn failed(&self, what: BackoffKey, why: &str) {
        let (mut backoffs, now) = (self.backoffs(), Instant::now());
        if backoffs.len() >= BACKOFFS_MAX && !backoffs.contains_key(&what) {
            backoffs.retain(|_what, backoff| backoff.until > now);
            if backoffs.len() >= BACKOFFS_MAX {
                return;
            }
        }
        let times = match backoffs.get(&what) {
            // Of many questions at once the first counts.
            Some(backoff) if backoff.until > now => return,
            Some(backoff) => backoff.times + 1,
            None => 0,
        };
        let pause = LEFT_ALONE.saturating_mul(1 << times.min(10)).min(LEFT_ALONE_MOST);
        backoffs.insert(what, Backoff { until: now + pause, times, what: why.to_owned() });
    }

    fn backoffs(&self) -> MutexGuard<'_, HashMap<BackoffKey, Backoff>> {
        lock(&self.backoffs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_failed_is_left_alone_for_longer_each_time_and_the_first_of_many_at_once_counts() {
        let servers = Servers::new(Arc::new(Cache::new(None)));
        let what = BackoffKey { place: Place::Host, url: "http://ca.test/".to_owned(), about: None };
        let pause = |servers: &Servers| servers.backoffs()[&what].until.saturating_duration_since(Instant::now());
        assert!(servers.backoff(&what).is_ok());
        for _ in 0..7 {
            servers.failed(what.clone(), "it is down");
        }
        assert!(pause(&servers) <= LEFT_ALONE && servers.backoff(&what).is_err());
        for times in 1..20 {
            servers.backoffs().get_mut(&what).unwrap().until = Instant::now();
            servers.failed(what.clone(), "it is down");
            assert!(pause(&servers) <= LEFT_ALONE_MOST && (times > 1 || pause(&servers) > LEFT_ALONE));
        }
        let other = BackoffKey { about: Some((Key([0; 32]), false)), ..what.clone() };
        assert!(servers.backoff(&other).is_ok(), "another certificate");
        servers.went_well(&what);
        assert!(servers.backoff(&what).is_ok());
    }
}
