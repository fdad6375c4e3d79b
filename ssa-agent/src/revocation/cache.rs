//! Answers that still count, in memory and on disk, for all contexts: who has signed them is bound to the issuer that they are
//! stored under, whoever has asked.
//!
//! On disk are OCSP responses and CRLs as they came, and they are verified when they are read as when they came: whoever
//! can write there can make the agent forget an answer, and no more.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use openssl::sha::sha256;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{
    answer::{Answer, LONGEST, Status, Way},
    crl::{self, Crl},
    ocsp,
    subject::{Key, Subject},
};

/// Answers in memory.
const ANSWERS: usize = 1 << 14;
/// Bytes of the CRLs in memory, as they were fetched; parsed they take some times as much.
const CRL_BYTES: usize = 64 << 20;
/// Files on disk, and their bytes. What is over goes when an agent starts, the oldest first.
const FILES: usize = 1 << 14;
const FILE_BYTES: u64 = 256 << 20;

pub(super) struct Cache {
    inner: Mutex<Inner>,
    /// None: nothing is kept on disk.
    folder: Option<PathBuf>,
    /// It was said that nothing can be kept there.
    told: AtomicBool,
    /// How many answers were taken in that say "revoked".
    revoked: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    answers: HashMap<Key, Answer>,
    /// By URL.
    crls: HashMap<String, Arc<Crl>>,
}

impl Cache {
    /// With what an agent before this one has left in a folder, which is made when there is something to keep.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        folder.iter().for_each(|folder| clear(folder));
        Self { inner: Mutex::default(), folder, told: AtomicBool::new(false), revoked: watch::channel(0).0 }
    }

    /// An answer in memory, if it still counts.
    pub(super) fn known(&self, key: &Key) -> Option<Answer> {
        self.lock().answers.get(key).filter(|answer| answer.is_valid()).cloned()
    }

    /// An answer in memory or on disk, or a CRL that has one.
    pub(super) async fn find(self: &Arc<Self>, subject: &Subject) -> Option<Answer> {
        if let Some(answer) = self.known(&subject.key) {
            return Some(answer);
        }
        let (cache, own) = (Arc::clone(self), subject.clone());
        // Files, and signatures over megabytes.
        let found = tokio::task::spawn_blocking(move || cache.read_ocsp(&own).or_else(|| cache.look(&own)));
        let answer = found.await.ok().flatten()?;
        self.put(&subject.key, answer.clone());
        Some(answer)
    }

    fn read_ocsp(&self, subject: &Subject) -> Option<Answer> {
        let path = self.path(&subject.key.0, "ocsp")?;
        let der = fs::read(&path).ok()?;
        match ocsp::read(&der, subject, Way::Ocsp, None) {
            Ok(answer) => Some(answer).filter(Answer::is_valid),
            Err(error) => {
                debug!(path = %path.display(), %error, "a kept answer is none any more");
                let _gone = fs::remove_file(&path);
                None
            }
        }
    }

    fn look(&self, subject: &Subject) -> Option<Answer> {
        let lists: Vec<Arc<Crl>> = subject.lists().iter().filter_map(|url| self.crl(url)).collect();
        if lists.is_empty() {
            return None;
        }
        crl::look(lists.iter().map(|list| &**list), subject).ok().filter(Answer::is_valid)
    }

    /// A CRL that still counts.
    fn crl(&self, url: &str) -> Option<Arc<Crl>> {
        let known = self.lock().crls.get(url).map(Arc::clone);
        if let Some(known) = known {
            return known.check_times().is_ok().then_some(known);
        }
        let path = self.path(&sha256(url.as_bytes()), "crl")?;
        match Crl::read(&fs::read(&path).ok()?) {
            Ok(list) => Some(self.keep_crl(url, Arc::new(list))),
            Err(_old) => {
                let _gone = fs::remove_file(&path);
                None
            }
        }
    }

    /// Takes an answer in, over an older one.
    pub(super) fn put(&self, key: &Key, answer: Answer) {
        if !answer.is_valid() {
            return;
        }
        let revoked = answer.status != Status::Good;
        {
            let mut inner = self.lock();
            if inner.answers.len() >= ANSWERS && !inner.answers.contains_key(key) {
                inner.make_room();
            }
            inner.answers.insert(*key, answer);
        }
        if revoked {
            self.revoked.send_modify(|count| *count += 1);
        }
    }

    /// As [`Self::put`], of an answer that has just come; and keeps it on disk. Blocks.
    pub(super) fn keep(&self, key: &Key, answer: &Answer) {
        self.put(key, answer.clone());
        if let (Some(der), Some(path)) = (&answer.ocsp, self.path(&key.0, "ocsp")) {
            self.write(&path, der);
        }
    }

    /// Keeps a CRL that has just come, and has said something. Blocks.
    pub(super) fn keep_list(&self, url: &str, list: Arc<Crl>) {
        if let (Some(path), Ok(der)) = (self.path(&sha256(url.as_bytes()), "crl"), list.to_der()) {
            self.write(&path, &der);
        }
        self.keep_crl(url, list);
    }

    fn keep_crl(&self, url: &str, list: Arc<Crl>) -> Arc<Crl> {
        let mut inner = self.lock();
        let others: usize =
            inner.crls.iter().filter(|(other, _list)| *other != url).map(|(_url, list)| list.length).sum();
        if others + list.length > CRL_BYTES {
            inner.crls.clear();
        }
        inner.crls.insert(url.to_owned(), Arc::clone(&list));
        list
    }

    /// Tells when answers are taken in that say "revoked".
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.revoked.subscribe()
    }

    fn path(&self, name: &[u8; 32], kind: &str) -> Option<PathBuf> {
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.folder.as_ref()?.join(format!("{name}.{kind}")))
    }

    /// In one step: nobody reads half a file.
    fn write(&self, path: &Path, bytes: &[u8]) {
        let write = || -> io::Result<()> {
            let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(bytes)?;
            file.persist(path)?;
            Ok(())
        };
        if let Err(error) = write()
            && !self.told.swap(true, Ordering::Relaxed)
        {
            warn!(path = %path.display(), %error, "answers about revocation can't be kept on disk, and go with the agent");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What no longer counts goes; then an eighth of what is good, the first to expire first. "Revoked" stays longest.
    fn make_room(&mut self) {
        self.answers.retain(|_key, answer| answer.is_valid());
        if self.answers.len() < ANSWERS {
            return;
        }
        let mut all: Vec<(bool, u64, Key)> =
            self.answers.iter().map(|(key, answer)| (answer.status != Status::Good, answer.until, *key)).collect();
        all.sort_by_key(|(revoked, until, _key)| (*revoked, *until));
        all.iter().take(ANSWERS / 8).for_each(|(.., key)| drop(self.answers.remove(key)));
    }
}

/// Clears a folder of what is old or too much.
fn clear(folder: &Path) {
    let mut files: Vec<(Duration, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        let is_ours = entry.path().extension().is_some_and(|kind| kind == "ocsp" || kind == "crl");
        if metadata.is_file() && is_ours {
            files.push((age, metadata.len(), entry.path()));
        }
    }
    files.sort();
    let mut bytes = 0;
    for (index, (age, length, path)) in files.iter().enumerate() {
        bytes += length;
        if *age > LONGEST || index >= FILES || bytes > FILE_BYTES {
            let _gone = fs::remove_file(path);
        }
    }
}
