//! What the agent keeps of each context beside the kernel's settings: certificates and keys that the
//! program brought, and cached sessions.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use openssl::{ssl::SslContext, x509::X509};
use serde::{Deserialize, Serialize};
use ssa_common::{
    context::{BlobKey, Context, KEPT_PATH_BYTES, KeptPath, Setting},
    event::BlobSet,
    socket::Caller,
    uapi::{self, OPTIONS, Place},
};
use tokio::{
    sync::{OnceCell, watch},
    time::timeout,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::{
    kernel::{error as kernel, maps::Maps},
    policy::policy::Effective,
    revocation::revocation::{Checks, Revocation, Ways},
    sys::as_caller::{self as caller, Read},
    tls::{
        cipher::Suite,
        client as tls,
        credentials::{Credential, Credentials, certificates},
        server::{self, Front},
        session::Sessions,
    },
};

/// Contexts that the agent knows something of, by id.
pub(crate) struct Contexts {
    maps: Arc<Maps>,
    revocation: Arc<Revocation>,
    known: Mutex<HashMap<u64, Known>>,
    /// Contexts whose lists of cipher suites an agent with another OpenSSL has numbered.
    renumbered: HashSet<u64>,
}

#[derive(Clone, Default)]
struct Known {
    /// Paths and PEM texts in the order in which they were set, read or being read.
    blobs: Vec<Brought>,
    /// What was made of all of them, once a connection has asked.
    made: Making,
    sessions: Arc<Sessions>,
    /// What the sessions were made with.
    shape: Shape,
    /// For clients, if it listens, and since when.
    front: Option<(Instant, Arc<Front>)>,
}

/// What connections and listeners of a context are made with.
struct Common {
    context: Context,
    known: Known,
    made: Made,
    shape: Shape,
    /// None if sessions are not to be reused.
    session_ttl: Option<Duration>,
    /// How peers are checked for revocation; none if they are not.
    checks: Option<Checks>,
}

/// After this long a listener gets new keys for its session tickets.
const TICKET_KEY_LIFE: Duration = Duration::from_secs(12 * 3600);

/// Of a policy, by generation.
#[derive(Clone, Default)]
struct Making {
    generation: u64,
    made: Arc<OnceCell<Result<Made, String>>>,
}

/// Two connections with the same may share sessions.
#[derive(Clone, Default, Eq, PartialEq)]
struct Shape {
    /// Of the policy.
    generation: u64,
    versions: (i64, i64),
    suites: Vec<Suite>,
    alpn: Vec<u8>,
}

/// One option's value: files of PEM texts.
#[derive(Clone)]
struct Brought {
    option: i32,
    /// Which set of this context it was, from 1.
    sequence: u32,
    /// Whose rights its path is opened with.
    caller: Caller,
    /// None if it is a PEM text itself.
    path: Option<Vec<u8>>,
    read: watch::Receiver<Option<Result<Read, String>>>,
    /// It counts no longer; who still reads it must not keep its path.
    forgotten: Arc<AtomicBool>,
}

/// A PEM text that a program has set.
#[derive(Deserialize, Serialize)]
pub(crate) struct BroughtText {
    context: u64,
    option: u32,
    sequence: u32,
    /// The bytes of a [`Caller`].
    caller: Vec<u8>,
    text: String,
}

/// Trust and own credentials of a context.
#[derive(Clone)]
struct Made {
    tls: SslContext,
    credentials: Arc<[Credential]>,
    /// The program's own CAs.
    trusted: Option<Arc<[X509]>>,
}

/// With what a connection is made.
pub(crate) struct Settings {
    pub(crate) tls: SslContext,
    /// For peers that ask for a certificate.
    pub(crate) credentials: Arc<[Credential]>,
    /// None if sessions are not to be reused.
    pub(crate) sessions: Option<Arc<Sessions>>,
    /// Lowest and highest version, as on the wire.
    pub(crate) versions: (i64, i64),
    /// Of both generations, best first.
    pub(crate) suites: Vec<Suite>,
    /// Application protocols to offer, as on the wire (RFC 7301); empty for none.
    pub(crate) alpn: Vec<u8>,
    /// How long a session may be resumed.
    pub(crate) session_ttl: Duration,
    /// Whether sessions of TLS 1.3, which are always tickets, may be kept.
    pub(crate) tickets: bool,
    /// How the peer is checked for revocation; none if it is not.
    pub(crate) checks: Option<Checks>,
}

impl Contexts {
    /// Gives the hooks the names of the cipher suites, and takes up what programs have set before: paths are kept in the
    /// kernel, texts only by an agent that hands over.
    pub(crate) fn new(
        maps: Arc<Maps>,
        revocation: Arc<Revocation>,
        texts: Vec<BroughtText>,
    ) -> Result<Self, kernel::Error> {
        let same = Suite::all().all(|suite| {
            let before = maps.cipher_name(suite.number());
            before.is_empty() || before == suite.name()
        });
        let renumbered = if same { HashSet::new() } else { maps.forget_ciphers() };
        for suite in Suite::all() {
            maps.put_cipher(suite.number(), suite.name(), suite.standard_name())?;
        }
        let contexts = Self { maps, revocation, known: Mutex::default(), renumbered };
        contexts.restore(texts);
        Ok(contexts)
    }

    /// Reads the paths that programs have set while an agent before this one ran, and takes the texts.
    fn restore(&self, texts: Vec<BroughtText>) {
        let mut kept: Vec<(BlobKey, Caller, Option<u64>, Vec<u8>)> = Vec::new();
        for (key, path) in self.maps.kept_paths() {
            let value = path.bytes.get(..path.len as usize).unwrap_or_default().to_vec();
            kept.push((key, path.caller, Some(path.started), value));
        }
        for BroughtText { context, option, sequence, caller, text } in texts {
            let Ok(caller) = Caller::read_from_bytes(&caller) else { continue };
            kept.push((BlobKey { context, option, sequence }, caller, None, text.into_bytes()));
        }
        kept.sort_by_key(|(key, ..)| (key.context, key.sequence));
        for (key, caller, started, value) in kept {
            if self.maps.context(key.context).is_none() {
                self.maps.forget_path(&key);
                continue;
            }
            self.begin(key, caller, started, value);
        }
    }

    /// The texts that programs have set, for an agent that takes over. Paths that are just being read are in the kernel then.
    pub(crate) async fn texts(&self) -> Vec<BroughtText> {
        /// A file system that takes longer has programs set their paths again.
        const PATIENCE: Duration = Duration::from_secs(5);
        let all: Vec<(u64, Brought)> = {
            let known = self.lock();
            known.iter().flat_map(|(id, known)| known.blobs.iter().map(|blob| (*id, blob.clone()))).collect()
        };
        let (blobs, paths): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_id, blob)| blob.path.is_none());
        let kept = async {
            for (_id, mut blob) in paths {
                // Given up, with its context.
                let _gone = blob.read.wait_for(Option::is_some).await;
            }
        };
        let _late = timeout(PATIENCE, kept).await;
        let mut texts = Vec::new();
        for (context, mut blob) in blobs {
            let Ok(read) = blob.read.wait_for(Option::is_some).await else { continue };
            let Some(Ok(read)) = read.clone() else { continue };
            // One that is no text is no certificate, either: it is lost, and that is said.
            let Some(Ok(text)) = read.files.into_iter().next().map(String::from_utf8) else { continue };
            let (option, caller) = (blob.option.unsigned_abs(), blob.caller.as_bytes().to_vec());
            texts.push(BroughtText { context, option, sequence: blob.sequence, caller, text });
        }
        texts
    }

    /// Takes an option's value that waits in the map, and starts to read what it names.
    pub(crate) fn set(&self, event: &BlobSet) {
        let Some(value) = self.maps.take_blob(&event.key) else { return };
        self.begin(event.key, event.caller, None, value);
    }

    /// Starts to read what a value names.
    fn begin(&self, key: BlobKey, caller: Caller, started: Option<u64>, value: Vec<u8>) {
        let option = i32::try_from(key.option).unwrap_or(0);
        let path = (!value.starts_with(INLINE)).then(|| value.clone());
        let (done, read) = watch::channel(None);
        let forgotten = Arc::new(AtomicBool::new(false));
        {
            let mut known = self.lock();
            let known = known.entry(key.context).or_default();
            if option == uapi::TLS_TRUSTED_PEER_CERTIFICATES {
                // The last set counts.
                let superseded = known.blobs.extract_if(.., |blob| blob.option == option);
                superseded.for_each(|blob| self.forget_blob(key.context, &blob));
            }
            let (path, forgotten) = (path.clone(), Arc::clone(&forgotten));
            known.blobs.push(Brought { option, sequence: key.sequence, caller, path, read, forgotten });
            // Sessions were made with other trust, or by another identity.
            known.made = Making::default();
            known.sessions = Arc::default();
            known.front = None;
        }
        let maps = Arc::clone(&self.maps);
        tokio::task::spawn_blocking(move || {
            let read = files(caller, started, &value);
            if let (Some(path), Ok(read), None) = (path, &read, started) {
                keep(&maps, &key, caller, read.began, &path);
                // Whoever forgets it has said so before taking the path away.
                if forgotten.load(Ordering::SeqCst) {
                    maps.forget_path(&key);
                }
            }
            // Nobody is interested if the context is gone.
            let _unwanted = done.send(Some(read));
        });
    }

    /// What `id`'s connections are made with under a policy, once it is read.
    pub(crate) async fn settings(&self, id: u64, effective: &Effective) -> Result<Settings, tls::Error> {
        let Common { known, made, shape, session_ttl, checks, .. } = self.common(id, effective).await?;
        let sessions = session_ttl.map(|_ttl| known.sessions);
        let tickets = effective.policy.sessions.tickets;
        let Shape { versions, suites, alpn, .. } = shape;
        let session_ttl = session_ttl.unwrap_or_default();
        Ok(Settings {
            tls: made.tls,
            credentials: made.credentials,
            sessions,
            versions,
            suites,
            alpn,
            session_ttl,
            tickets,
            checks,
        })
    }

    /// What a listener serves its clients with under a policy, once it is read.
    pub(crate) async fn front(&self, id: u64, effective: &Effective) -> Result<Arc<Front>, tls::Error> {
        let Common { context, known, made, shape, session_ttl, checks } = self.common(id, effective).await?;
        if let Some((made_at, front)) = &known.front
            && made_at.elapsed() < TICKET_KEY_LIFE
        {
            return Ok(Arc::clone(front));
        }
        let front = Arc::new(Front::new(server::Setup {
            policy: &effective.policy,
            credentials: made.credentials,
            trusted: made.trusted.as_deref(),
            peer_auth: context.scalar(Setting::PeerAuth),
            stapling: (context.scalar(Setting::Stapling) != 0).then(|| Arc::clone(&self.revocation)),
            checks,
            versions: shape.versions,
            suites: shape.suites.clone(),
            alpn: shape.alpn.clone(),
            session_ttl,
            id,
        })?);
        if let Some(known) = self.lock().get_mut(&id)
            && known.shape == shape
        {
            known.front = Some((Instant::now(), Arc::clone(&front)));
        }
        Ok(front)
    }

    /// Reads a context's files again. Says whether they were others; if they make no sense, what was
    /// read before stays in force.
    pub(crate) async fn refresh(&self, id: u64, effective: &Effective) -> Result<bool, String> {
        let Some(known) = self.lock().get(&id).cloned() else { return Ok(false) };
        let mut changed = false;
        let mut blobs = Vec::new();
        for blob in &known.blobs {
            let Some(path) = blob.path.clone() else {
                blobs.push(blob.clone());
                continue;
            };
            let caller = blob.caller;
            let before = blob.read.borrow().as_ref().and_then(|before| before.clone().ok());
            let Some(Read { began, .. }) = before.clone() else { return Ok(false) };
            let read = tokio::task::spawn_blocking(move || files(caller, Some(began), &path)).await;
            let read = read.map_err(|error| error.to_string())??;
            if before == Some(read.clone()) {
                blobs.push(blob.clone());
                continue;
            }
            changed = true;
            let (_done, read) = watch::channel(Some(Ok(read)));
            blobs.push(Brought { read, ..blob.clone() });
        }
        if !changed {
            return Ok(false);
        }
        make(effective, &blobs).await?;
        if let Some(known) = self.lock().get_mut(&id)
            && known.blobs.len() == blobs.len()
        {
            known.blobs = blobs;
            known.made = Making::default();
            known.sessions = Arc::default();
            known.front = None;
        }
        Ok(true)
    }

    /// What both sides have in common.
    async fn common(&self, id: u64, effective: &Effective) -> Result<Common, tls::Error> {
        let lost = |what: &str| tls::Error::Brought(format!("{what} were lost when the TLS agent was restarted"));
        let context: Context = self.maps.context(id).ok_or_else(|| lost("the settings"))?;
        let scalar = |setting| scalar(&context, setting, effective);
        let versions = (scalar(Setting::VersionMin)?, scalar(Setting::VersionMax)?);
        let session_ttl = Duration::from_secs(scalar(Setting::SessionTtl)?.unsigned_abs());
        let reuse = scalar(Setting::SessionReuse)? != 0 && !session_ttl.is_zero();
        if context.ciphers_set != 0 && self.renumbered.contains(&id) {
            return Err(lost("the cipher suites"));
        }
        let suites = suites(&context, effective)?;
        let alpn = match context.alpn.as_str() {
            Some(list) => wire(list.split(',')),
            None => wire(effective.policy.tls.alpn.iter().map(String::as_str)),
        };
        if context.trust_set != 0 && !effective.policy.trust.programs_may_bring_cas {
            return Err(weaker("TLS_TRUSTED_PEER_CERTIFICATES: programs may not bring CAs of their own"));
        }
        let shape = Shape { generation: effective.generation, versions, suites, alpn };
        let known = {
            let mut all = self.lock();
            let known = all.entry(id).or_default();
            if known.shape != shape {
                known.shape = shape.clone();
                known.sessions = Arc::default();
                known.front = None;
            }
            if known.made.generation != effective.generation {
                known.made = Making { generation: effective.generation, ..Making::default() };
            }
            known.clone()
        };
        let is_trust = |blob: &&Brought| blob.option == uapi::TLS_TRUSTED_PEER_CERTIFICATES;
        let trust = known.blobs.iter().rfind(is_trust).map_or(0, |blob| blob.sequence);
        let credentials = known.blobs.iter().filter(|blob| !is_trust(blob)).count();
        if trust != context.trust_set {
            return Err(lost("certificates (TLS_TRUSTED_PEER_CERTIFICATES: set them again)"));
        }
        if credentials != context.credential_sets as usize {
            return Err(lost("certificates and keys (set them on a new socket)"));
        }
        let made = known.made.made.get_or_init(|| make(effective, &known.blobs)).await;
        let made = made.clone().map_err(tls::Error::Brought)?;
        let checks = if scalar(Setting::RevocationChecks)? == 0 {
            None
        } else {
            let way = |setting| scalar(setting).map(|value| value != 0);
            let ways = Ways {
                stapled: way(Setting::StapledChecks)?,
                ocsp: way(Setting::OcspChecks)?,
                crl: way(Setting::CrlChecks)?,
                cached: way(Setting::CachedChecks)?,
            };
            Some(Checks { ways, policy: effective.policy.revocation.clone() })
        };
        Ok(Common { context, known, made, shape, session_ttl: reuse.then_some(session_ttl), checks })
    }

    /// Forgets a context that no socket uses any more.
    pub(crate) fn forget_if_gone(&self, id: u64) {
        if self.maps.context(id).is_none()
            && let Some(known) = self.lock().remove(&id)
        {
            known.blobs.iter().for_each(|blob| self.forget_blob(id, blob));
        }
    }

    /// Forgets a value's path, if it has one.
    fn forget_blob(&self, context: u64, blob: &Brought) {
        blob.forgotten.store(true, Ordering::SeqCst);
        if blob.path.is_some() {
            self.maps.forget_path(&BlobKey { context, option: blob.option.unsigned_abs(), sequence: blob.sequence });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that the program has set, if the policy allows it, else the policy's own.
///
/// The hooks have compared it with what cgroup and user decide. What the executable decides, and what
/// was changed since, is decided here.
fn scalar(context: &Context, setting: Setting, effective: &Effective) -> Result<i64, tls::Error> {
    let (slot, row) = (setting as usize, &effective.row);
    if !context.is_set(setting) {
        return Ok(row.defaults[slot]);
    }
    let value = context.scalar(setting);
    if (row.least[slot]..=row.most[slot]).contains(&value) {
        return Ok(value);
    }
    let name = OPTIONS.iter().find(|option| option.place == Place::Setting(setting)).map_or("?", |option| option.name);
    Err(weaker(&format!("{name} is {value:#x}, allowed is {:#x} to {:#x}", row.least[slot], row.most[slot])))
}

/// The program's list of suites as far as the policy allows it.
fn suites(context: &Context, effective: &Effective) -> Result<Vec<Suite>, tls::Error> {
    if context.ciphers_set == 0 {
        return Ok(effective.policy.usable_suites());
    }
    let allowed = |suite: &Suite| effective.row.allowed.has(suite.number());
    if let Some(suite) = Suite::all().find(|suite| context.asked.has(suite.number()) && !allowed(suite)) {
        return Err(weaker(&format!("{} is no allowed cipher suite", suite.name())));
    }
    Ok(context.ciphers.numbers().filter_map(Suite::numbered).filter(allowed).collect())
}

fn weaker(what: &str) -> tls::Error {
    tls::Error::Brought(format!("weaker than the administrator's policy allows: {what}"))
}

/// What all that a program has brought comes to. The last set of trusted certificates counts.
async fn make(effective: &Effective, blobs: &[Brought]) -> Result<Made, String> {
    let mut trusted = None;
    let mut credentials = Credentials::default();
    let last_trust = blobs.iter().rposition(|blob| blob.option == uapi::TLS_TRUSTED_PEER_CERTIFICATES);
    for (index, blob) in blobs.iter().enumerate() {
        if blob.option == uapi::TLS_TRUSTED_PEER_CERTIFICATES && Some(index) != last_trust {
            continue;
        }
        let mut read = blob.read.clone();
        let read = read.wait_for(Option::is_some).await.map_err(|_gone| "reading was given up".to_owned())?.clone();
        let of_option = |text: String| {
            let name = uapi::option(blob.option).map_or("?", |option| option.name);
            format!("{name}: {text}")
        };
        let Read { files, ocsp, .. } = read.unwrap_or_else(|| Err("nothing was read".to_owned())).map_err(of_option)?;
        // A file need not end with a line's end.
        let pem = files.join(&b'\n');
        match blob.option {
            uapi::TLS_TRUSTED_PEER_CERTIFICATES => trusted = Some(certificates(&pem).map_err(of_option)?),
            uapi::TLS_CERTIFICATE_CHAIN => credentials.add_chain(&pem, ocsp).map_err(of_option)?,
            uapi::TLS_PRIVATE_KEY => credentials.add_key(&pem).map_err(of_option)?,
            _ => return Err(of_option("the agent does not know this option".to_owned())),
        }
    }
    let own: Arc<[Credential]> = credentials.finish()?.into();
    let credentials = if own.is_empty() { Arc::clone(&effective.credentials) } else { own };
    let tls = match trusted.clone() {
        None => effective.tls.clone(),
        Some(trusted) => tls::context(&effective.policy, Some(trusted)).map_err(|error| error.to_string())?,
    };
    Ok(Made { tls, credentials, trusted: trusted.map(Into::into) })
}

/// Keeps a path for an agent that comes after this one.
fn keep(maps: &Maps, key: &BlobKey, caller: Caller, started: u64, path: &[u8]) {
    let mut kept = KeptPath { caller, started, len: 0, reserved: 0, bytes: [0; KEPT_PATH_BYTES] };
    let Some(room) = kept.bytes.get_mut(..path.len()) else { return };
    room.copy_from_slice(path);
    kept.len = u32::try_from(path.len()).unwrap_or(0);
    maps.keep_path(key, &kept);
}

/// A list of protocols as ClientHello has it: each with its length before it.
fn wire<'a>(protocols: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let protocols = protocols.filter(|protocol| !protocol.is_empty());
    protocols.flat_map(|protocol| u8::try_from(protocol.len()).into_iter().chain(protocol.bytes())).collect()
}

/// How a PEM text begins, which is no path.
const INLINE: &[u8] = b"-----BEGIN";

/// A PEM text, or the texts of the file or directory that a text names.
///
/// What the agent lacks just now, it waits for.
fn files(caller: Caller, started: Option<u64>, value: &[u8]) -> Result<Read, String> {
    const PATIENCE: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_millis(50);
    if value.starts_with(INLINE) {
        return Ok(Read { files: vec![value.to_vec()], ..Read::default() });
    }
    let path = std::str::from_utf8(value).map_err(|_bytes| "the path is not UTF-8".to_owned())?;
    let began = Instant::now();
    loop {
        match caller::read(caller, started, Path::new(path)) {
            Err(error) if error.is_temporary() && began.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            done => return done.map_err(|error| error.to_string()),
        }
    }
}
