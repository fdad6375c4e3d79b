//! Cache of answers that still count, in memory and on disk, for all contexts: who has signed them is bound to the
//! issuer that they are stored under, whoever has asked. Of two answers the one that was said later is right: nobody
//! makes the agent forget a "revoked" by playing it an older "good".
//!
//! On disk are OCSP responses and CRLs as they came, and they are verified when they are read as when they came:
//! whoever can write there can make the agent forget an answer, and no more.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs,
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::watch;
use tracing::{debug, warn};

use super::{
    answer::{Answer, LONGEST, Source, Status},
    crl::{self, Crl},
    fetch::Place,
    ocsp,
    subject::{Key, Subject},
};
use crate::sync::lock;

/// Most answers in memory.
const ANSWERS: usize = 1 << 14;
/// Most answers whose response is kept in memory as well, to be stapled.
const STAPLES: usize = 1 << 10;
/// Most bytes of the CRLs in memory, as they were fetched; parsed they take some times as much.
const CRL_BYTES: usize = 64 << 20;
/// Most files on disk, and most bytes of them: what is over goes, the oldest first.
const FILES: usize = 1 << 14;
const FILE_BYTES: u64 = 256 << 20;
/// Number of bytes after whose writing the folder is cleared.
const LOOK_BYTES: u64 = 32 << 20;

/// Cache of answers, in memory and on disk. Its locks are held for memory only, but for `disk`.
pub(super) struct Cache {
    inner: Mutex<Inner>,
    /// Folder of the files; none: nothing is kept on disk.
    folder: Option<PathBuf>,
    /// Lock that is held while a file is written or removed: what is known then is what stays.
    disk: Mutex<()>,
    /// Flag that it was logged that nothing can be kept on disk.
    logged: AtomicBool,
    /// Bytes that were written since the folder was cleared.
    written: AtomicU64,
    /// Count of the answers taken in that say "revoked".
    revoked: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    /// Answers, each with the place that has asked for it.
    answers: HashMap<Key, (Answer, Option<Place>)>,
    staples: HashMap<Key, Answer>,
    crls: HashMap<Key, Arc<Crl>>,
}

impl Cache {
    /// Makes a cache over a folder with what an agent before this one has left there; the folder is made when there is
    /// something to keep. Blocks.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        folder.iter().for_each(|folder| clear(folder));
        Self {
            inner: Mutex::default(),
            folder,
            disk: Mutex::default(),
            logged: AtomicBool::new(false),
            written: AtomicU64::new(0),
            revoked: watch::channel(0).0,
        }
    }

    /// Answer in memory, if it still counts.
    pub(super) fn known(&self, key: &Key) -> Option<Answer> {
        self.lock().answers.get(key).map(|(answer, _place)| answer).filter(|answer| answer.is_valid()).cloned()
    }

    /// Finds an answer in memory or on disk, or in a CRL.
    pub(super) async fn find(self: &Arc<Self>, subject: &Subject) -> Option<Answer> {
        if let Some(answer) = self.known(&subject.key) {
            return Some(answer);
        }
        let (cache, own) = (Arc::clone(self), subject.clone());
        // Files, and signatures over megabytes.
        let found = tokio::task::spawn_blocking(move || [cache.read_ocsp(&own), cache.find_in_lists(&own)]);
        for answer in found.await.ok()?.into_iter().flatten() {
            self.put(&subject.key, answer, None);
        }
        // The later of what was found, and of what has come meanwhile.
        self.known(&subject.key)
    }

    fn read_ocsp(&self, subject: &Subject) -> Option<Answer> {
        let path = self.path(&subject.key, "ocsp")?;
        let der = fs::read(&path).ok()?;
        match ocsp::read(&der, subject, Source::Ocsp, None) {
            Ok(answer) => Some(answer).filter(Answer::is_valid),
            Err(error) => {
                debug!(path = %path.display(), %error, "a kept answer is none any more");
                let _gone = fs::remove_file(&path);
                None
            }
        }
    }

    fn find_in_lists(&self, subject: &Subject) -> Option<Answer> {
        let lists: Vec<Arc<Crl>> = subject.lists().iter().filter_map(|url| self.crl(&subject.list_key(url))).collect();
        if lists.is_empty() {
            return None;
        }
        crl::look_up(lists.iter().map(|list| &**list), subject).ok().filter(Answer::is_valid)
    }

    /// CRL in memory or on disk that still counts. Blocks.
    fn crl(&self, key: &Key) -> Option<Arc<Crl>> {
        let known = self.lock().crls.get(key).map(Arc::clone);
        if let Some(known) = known {
            return known.check_times().is_ok().then_some(known);
        }
        let path = self.path(key, "crl")?;
        match Crl::read(&fs::read(&path).ok()?) {
            Ok(list) => {
                let list = Arc::new(list);
                self.put_list(key, Arc::clone(&list));
                Some(list)
            }
            Err(_old) => {
                let _gone = fs::remove_file(&path);
                None
            }
        }
    }

    /// Takes an answer in that was asked for from a place, unless a later one is known. True if it did. What an agent
    /// before this one has left counts as well: [`Self::find`] comes first.
    pub(super) fn put(&self, key: &Key, answer: Answer, place: Option<Place>) -> bool {
        if !answer.is_valid() {
            return false;
        }
        let revoked = answer.status != Status::Good;
        {
            let mut inner = self.lock();
            if inner.answers.len() >= ANSWERS && !inner.answers.contains_key(key) {
                inner.make_room();
            }
            // The response itself is of use to be stapled, and on disk.
            let answer = Answer { ocsp: None, ..answer };
            match inner.answers.entry(*key) {
                Entry::Occupied(known) if !answer.supersedes(&known.get().0) => return false,
                Entry::Occupied(mut known) => drop(known.insert((answer, place))),
                Entry::Vacant(room) => drop(room.insert((answer, place))),
            }
        }
        if revoked {
            self.revoked.send_modify(|count| *count += 1);
        }
        true
    }

    /// Writes an answer to disk that was just taken in. Blocks.
    pub(super) fn store(&self, key: &Key, answer: &Answer) {
        let Some(path) = self.path(key, "ocsp") else { return };
        let _disk = lock(&self.disk);
        // A later one may have come meanwhile, and be stored already.
        let same = |known: Answer| (known.this_update, known.status) == (answer.this_update, answer.status.clone());
        if !self.known(key).is_some_and(same) {
            return;
        }
        match &answer.ocsp {
            Some(der) => self.write(&path, der),
            // A CRL has said it: the older response counts no longer.
            None => drop(fs::remove_file(&path)),
        }
    }

    /// Keeps a response to be stapled. If there are too many it is not kept.
    pub(super) fn keep_staple(&self, key: &Key, answer: Answer) {
        let mut inner = self.lock();
        if inner.staples.len() >= STAPLES && !inner.staples.contains_key(key) {
            inner.staples.retain(|_key, answer| answer.is_valid());
            if inner.staples.len() >= STAPLES {
                return;
            }
        }
        inner.staples.insert(*key, answer);
    }

    /// Response to be stapled, if one that counts is there.
    pub(super) fn staple(&self, key: &Key) -> Option<Answer> {
        self.lock().staples.get(key).filter(|answer| answer.is_valid()).cloned()
    }

    /// Keeps a CRL that has just come, and has said something, in memory and on disk. Blocks.
    pub(super) fn keep_list(&self, key: &Key, list: Arc<Crl>) {
        let _disk = lock(&self.disk);
        // One that lies on disk may be later than this.
        let _known = self.crl(key);
        if !self.put_list(key, Arc::clone(&list)) {
            return;
        }
        if let (Some(path), Ok(der)) = (self.path(key, "crl"), list.to_der()) {
            self.write(&path, &der);
        }
    }

    /// Takes a CRL in, unless a later one is known. True if it did.
    fn put_list(&self, key: &Key, list: Arc<Crl>) -> bool {
        let mut inner = self.lock();
        if let Some(known) = inner.crls.get(key)
            && known.check_times().is_ok()
            && known.this_update() > list.this_update()
        {
            return false;
        }
        inner.crls.remove(key);
        let mut bytes: usize = inner.crls.values().map(|list| list.length).sum();
        while bytes + list.length > CRL_BYTES
            && let Some(oldest) =
                inner.crls.iter().min_by_key(|(_key, list)| list.this_update()).map(|(key, _list)| *key)
            && let Some(gone) = inner.crls.remove(&oldest)
        {
            bytes -= gone.length;
        }
        inner.crls.insert(*key, list);
        true
    }

    /// Count of answers that say "revoked", which changes when one is taken in.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.revoked.subscribe()
    }

    fn path(&self, key: &Key, kind: &str) -> Option<PathBuf> {
        let name: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.folder.as_ref()?.join(format!("{name}.{kind}")))
    }

    /// Writes a file in one step: nobody reads half of it.
    fn write(&self, path: &Path, bytes: &[u8]) {
        /// Bytes that a small file takes.
        const BLOCK: u64 = 4096;
        let Some(folder) = path.parent() else { return };
        let write = || -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(bytes)?;
            file.persist(path)?;
            Ok(())
        };
        if let Err(error) = write()
            && !self.logged.swap(true, Ordering::Relaxed)
        {
            warn!(
                path = %path.display(),
                %error,
                "answers about revocation can't be kept on disk, and go with the agent"
            );
        }
        let bytes = (bytes.len() as u64).max(BLOCK);
        if self.written.fetch_add(bytes, Ordering::Relaxed) + bytes > LOOK_BYTES {
            self.written.store(0, Ordering::Relaxed);
            clear(folder);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    /// Makes room: drops answers that no longer count; then some of what the place has asked for that has asked for
    /// most: good answers first, and those that expire first.
    fn make_room(&mut self) {
        self.answers.retain(|_key, (answer, _place)| answer.is_valid());
        if self.answers.len() < ANSWERS {
            return;
        }
        let mut counts: HashMap<Option<Place>, usize> = HashMap::new();
        self.answers.values().for_each(|(_answer, place)| *counts.entry(*place).or_default() += 1);
        let Some((most, _count)) = counts.into_iter().max_by_key(|(_place, count)| *count) else { return };
        let own = self.answers.iter().filter(|(_key, (_answer, place))| *place == most);
        let mut own: Vec<(bool, u64, Key)> =
            own.map(|(key, (answer, _place))| (answer.status != Status::Good, answer.expires_at, *key)).collect();
        own.sort_by_key(|(revoked, until, _key)| (*revoked, *until));
        own.iter().take(own.len().div_ceil(8)).for_each(|(.., key)| drop(self.answers.remove(key)));
    }
}

/// Clears a folder of files that are old or too many. Blocks.
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
