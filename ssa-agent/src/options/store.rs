//! Store of what each context has beside the kernel's settings: certificates and keys that the application has brought,
//! and cached sessions.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ssa_common::{
    context::{BlobKey, Context, Setting},
    event::BlobSet,
    socket::Caller,
    uapi,
};
use tokio::sync::watch;

use super::{
    error::Error,
    settings::{ClientSettings, Loaded, Loading, ServerSettings, SessionKey, checks, load, session_key, session_ttl},
    upload::{INLINE, Upload, keep, read_value},
};
use crate::{
    kernel::{self, OptionMaps},
    policy::Effective,
    revocation::{Revocation, Stapling},
    sync::lock,
    sys::as_caller::Read,
    tls::{ClientConfig, Parameters, ServerConfig, ServerParameters, Sessions, Suite},
};

/// Certificates, keys and sessions of applications, by context id.
pub(crate) struct Options {
    /// Maps of the hooks that have the settings.
    pub(super) maps: Arc<OptionMaps>,
    revocation: Arc<Revocation>,
    contexts: Mutex<HashMap<u64, ContextState>>,
    /// Ids of contexts whose lists of cipher suites an agent with another OpenSSL has numbered.
    renumbered: HashSet<u64>,
}

/// State of one context.
#[derive(Clone, Default)]
struct ContextState {
    /// Paths and PEM texts in the order in which they were set, read or being read.
    uploads: Vec<Upload>,
    /// Files that the paths and texts name, parsed once a connection has asked.
    loading: Loading,
    sessions: Arc<Sessions>,
    /// Settings that the sessions were made with.
    key: SessionKey,
    /// Configuration of its listener, if it has one, and when it was made.
    server: Option<(Instant, Arc<ServerSettings>)>,
}

/// Parts of a client's or server's configuration that both need.
struct Prepared {
    context: Context,
    state: ContextState,
    loaded: Loaded,
    key: SessionKey,
}

/// Age at which a listener gets new keys for its session tickets.
const TICKET_KEY_LIFE: Duration = Duration::from_secs(12 * 3600);

impl Options {
    /// Gives the hooks the names of the cipher suites. Errors: the map of them can't be written.
    pub(crate) fn new(maps: Arc<OptionMaps>, revocation: Arc<Revocation>) -> Result<Self, kernel::Error> {
        let same = Suite::all().all(|suite| {
            let before = maps.cipher_name(suite.number());
            before.is_empty() || before == suite.name()
        });
        let renumbered = if same { HashSet::new() } else { maps.forget_ciphers() };
        for suite in Suite::all() {
            maps.put_cipher(suite.number(), suite.name(), suite.standard_name())?;
        }
        Ok(Self { maps, revocation, contexts: Mutex::default(), renumbered })
    }

    /// Takes an option's value that waits in the map, and starts to read what it names. Does nothing if the map has
    /// none.
    pub(crate) fn set(&self, event: &BlobSet) {
        let Some(value) = self.maps.take_blob(&event.key) else { return };
        self.upload(event.key, event.caller, None, value);
    }

    /// Starts to read what a value names, on a thread that may block. `started`: start time of the process `caller` if
    /// the value was kept by an agent before this one, whose path need not be kept again.
    pub(super) fn upload(&self, key: BlobKey, caller: Caller, started: Option<u64>, value: Vec<u8>) {
        let option = i32::try_from(key.option).unwrap_or(0);
        let path = (!value.starts_with(INLINE)).then(|| value.clone());
        let (done, read) = watch::channel(None);
        let forgotten = Arc::new(AtomicBool::new(false));
        {
            let mut contexts = self.lock();
            let state = contexts.entry(key.context).or_default();
            if option == uapi::TLS_TRUSTED_PEER_CERTIFICATES {
                // The last set counts.
                let superseded = state.uploads.extract_if(.., |upload| upload.option == option);
                superseded.for_each(|upload| self.forget_upload(key.context, &upload));
            }
            let (path, forgotten) = (path.clone(), Arc::clone(&forgotten));
            state.uploads.push(Upload { option, sequence: key.sequence, caller, path, read, forgotten });
            // Sessions were made with other trust, or by another identity.
            state.forget_loaded();
        }
        let maps = Arc::clone(&self.maps);
        tokio::task::spawn_blocking(move || {
            let read = read_value(caller, started, &value);
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

    /// Builds the configuration of connections of context `id` under a policy. Waits until the files that the context
    /// names are read; the caller sets the time limit.
    pub(crate) async fn client(&self, id: u64, effective: &Effective) -> Result<ClientSettings, Error> {
        let Prepared { context, state, loaded, key } = self.prepare(id, effective).await?;
        let session_ttl = session_ttl(&context, effective)?;
        let tls = ClientConfig {
            tls: loaded.tls,
            credentials: loaded.credentials,
            sessions: session_ttl.map(|_ttl| state.sessions),
            versions: key.versions,
            suites: key.suites,
            alpn: key.alpn,
            session_ttl: session_ttl.unwrap_or_default(),
            tickets: effective.policy.sessions.tickets,
        };
        Ok(ClientSettings { tls, checks: checks(&context, effective)? })
    }

    /// Builds the configuration of a listener of context `id` under a policy, or returns the last one while its ticket
    /// keys are young. Waits until the files that the context names are read.
    pub(crate) async fn server(&self, id: u64, effective: &Effective) -> Result<Arc<ServerSettings>, Error> {
        let Prepared { context, state, loaded, key } = self.prepare(id, effective).await?;
        if let Some((made_at, server)) = &state.server
            && made_at.elapsed() < TICKET_KEY_LIFE
        {
            return Ok(Arc::clone(server));
        }
        let peer_auth = context.scalar(Setting::PeerAuth);
        let wants_staples = context.scalar(Setting::Stapling) != 0;
        let stapling = wants_staples.then(|| Stapling::new(&self.revocation, &loaded.credentials));
        let tls = ServerConfig::new(ServerParameters {
            parameters: &Parameters::from(&effective.policy),
            credentials: loaded.credentials,
            trusted: loaded.trusted.as_deref(),
            peer_auth,
            staple: stapling.as_ref().map(|stapling| stapling.staple()),
            versions: key.versions,
            suites: key.suites.clone(),
            alpn: key.alpn.clone(),
            session_ttl: session_ttl(&context, effective)?,
            id,
        })?;
        let checks = checks(&context, effective)?.filter(|_checks| peer_auth != 0);
        let server = Arc::new(ServerSettings { tls, checks, stapling });
        if let Some(state) = self.lock().get_mut(&id)
            && state.key == key
        {
            state.server = Some((Instant::now(), Arc::clone(&server)));
        }
        Ok(server)
    }

    /// Reads a context's files again. True if they were others. If they can't be used, the error is a text, and what
    /// was read before stays in force.
    pub(crate) async fn refresh(&self, id: u64, effective: &Effective) -> Result<bool, String> {
        let Some(state) = self.lock().get(&id).cloned() else { return Ok(false) };
        let mut changed = false;
        let mut uploads = Vec::new();
        for upload in &state.uploads {
            let Some(path) = upload.path.clone() else {
                uploads.push(upload.clone());
                continue;
            };
            let caller = upload.caller;
            let before = upload.read.borrow().as_ref().and_then(|before| before.clone().ok());
            let Some(Read { began, .. }) = before.clone() else { return Ok(false) };
            let read = tokio::task::spawn_blocking(move || read_value(caller, Some(began), &path)).await;
            let read = read.map_err(|error| error.to_string())??;
            if before == Some(read.clone()) {
                uploads.push(upload.clone());
                continue;
            }
            changed = true;
            let (_done, read) = watch::channel(Some(Ok(read)));
            uploads.push(Upload { read, ..upload.clone() });
        }
        if !changed {
            return Ok(false);
        }
        load(effective, &uploads).await?;
        if let Some(state) = self.lock().get_mut(&id)
            && state.uploads.len() == uploads.len()
        {
            state.uploads = uploads;
            state.forget_loaded();
        }
        Ok(true)
    }

    /// Prepares what configurations of clients and servers have in common.
    async fn prepare(&self, id: u64, effective: &Effective) -> Result<Prepared, Error> {
        let context = self.maps.context(id).ok_or(Error::Lost("the settings"))?;
        if context.ciphers_set != 0 && self.renumbered.contains(&id) {
            return Err(Error::Lost("the cipher suites"));
        }
        let key = session_key(&context, effective)?;
        if context.trust_set != 0 && !effective.policy.trust.applications_may_bring_cas {
            let what = "TLS_TRUSTED_PEER_CERTIFICATES: applications may not bring CAs of their own";
            return Err(Error::Weaker(what.to_owned()));
        }
        let state = {
            let mut contexts = self.lock();
            let state = contexts.entry(id).or_default();
            if state.key != key {
                state.key = key.clone();
                state.sessions = Arc::default();
                state.server = None;
            }
            if state.loading.generation != effective.generation {
                state.loading = Loading { generation: effective.generation, ..Loading::default() };
            }
            state.clone()
        };
        let is_trust = |upload: &&Upload| upload.option == uapi::TLS_TRUSTED_PEER_CERTIFICATES;
        let trust = state.uploads.iter().rfind(is_trust).map_or(0, |upload| upload.sequence);
        let credentials = state.uploads.iter().filter(|upload| !is_trust(upload)).count();
        if trust != context.trust_set {
            return Err(Error::Lost("certificates (TLS_TRUSTED_PEER_CERTIFICATES: set them again)"));
        }
        if credentials != context.credential_sets as usize {
            return Err(Error::Lost("certificates and keys (set them on a new socket)"));
        }
        let loaded = state.loading.loaded.get_or_init(|| load(effective, &state.uploads)).await;
        let loaded = loaded.clone().map_err(Error::Unusable)?;
        Ok(Prepared { context, state, loaded, key })
    }

    /// Forgets a context that no socket uses any more.
    pub(crate) fn forget_if_gone(&self, id: u64) {
        if self.maps.context(id).is_none()
            && let Some(state) = self.lock().remove(&id)
        {
            state.uploads.iter().for_each(|upload| self.forget_upload(id, upload));
        }
    }

    /// Deletes the settings of an accepted socket that no application ever had, or has no more.
    pub(crate) fn forget_accepted(&self, id: u64) {
        self.maps.forget_context(id);
    }

    /// Deletes a value's path from the kernel, if it has one.
    fn forget_upload(&self, context: u64, upload: &Upload) {
        upload.forgotten.store(true, Ordering::SeqCst);
        if upload.path.is_some() {
            let (option, sequence) = (upload.option.unsigned_abs(), upload.sequence);
            self.maps.forget_path(&BlobKey { context, option, sequence });
        }
    }

    /// Lists the values of all contexts, each with the id of its context.
    pub(super) fn uploads(&self) -> Vec<(u64, Upload)> {
        let contexts = self.lock();
        contexts.iter().flat_map(|(id, state)| state.uploads.iter().map(|upload| (*id, upload.clone()))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, ContextState>> {
        lock(&self.contexts)
    }
}

impl ContextState {
    /// Discards what was loaded from the values, and the sessions made with it.
    fn forget_loaded(&mut self) {
        self.loading = Loading::default();
        self.sessions = Arc::default();
        self.server = None;
    }
}
