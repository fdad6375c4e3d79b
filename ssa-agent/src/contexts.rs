//! What the agent keeps of each context beside the kernel's settings: trusted certificates that the
//! program brought, and cached sessions.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openssl::{ssl::SslContext, x509::X509};
use ssa_common::{
    context::{Context, Setting},
    event::BlobSet,
    uapi,
};
use tokio::sync::watch;
use tracing::warn;

use crate::{
    caller,
    kernel::maps::Maps,
    tls::{self, session::Sessions},
};

/// Contexts that the agent knows something of, by id.
pub(crate) struct Contexts {
    maps: Arc<Maps>,
    system: SslContext,
    known: Mutex<HashMap<u64, Known>>,
}

#[derive(Clone, Default)]
struct Known {
    /// The latest set of trusted certificates; none while the system's store counts.
    trust: Option<Trust>,
    sessions: Arc<Sessions>,
}

/// Trusted certificates that are being read, or were.
#[derive(Clone)]
struct Trust {
    /// Which set of the option this is, from 1.
    sequence: u32,
    loaded: watch::Receiver<Option<Loaded>>,
}

type Loaded = Result<SslContext, String>;

/// With what a connection is made.
pub(crate) struct Settings {
    pub(crate) tls: SslContext,
    /// None if sessions are not to be reused.
    pub(crate) sessions: Option<Arc<Sessions>>,
}

impl Contexts {
    /// Reads the system's trust store.
    pub(crate) fn new(maps: Arc<Maps>) -> Result<Self, openssl::error::ErrorStack> {
        Ok(Self { maps, system: tls::context(None)?, known: Mutex::default() })
    }

    /// Takes an option's value that waits in the map, and starts to read what it names.
    pub(crate) fn set(&self, event: &BlobSet) {
        let Some(value) = self.maps.take_blob(&event.key) else { return };
        if i32::try_from(event.key.option) != Ok(uapi::TLS_TRUSTED_PEER_CERTIFICATES) {
            warn!(option = event.key.option, "the hooks passed on an option that the agent does not know");
            return;
        }
        let (done, loaded) = watch::channel(None);
        let known = Known { trust: Some(Trust { sequence: event.key.sequence, loaded }), sessions: Arc::default() };
        self.lock().insert(event.key.context, known);
        let caller = event.caller;
        tokio::task::spawn_blocking(move || {
            let trust = certificates(caller, &value)
                .and_then(|trusted| tls::context(Some(trusted)).map_err(|error| error.to_string()));
            // Nobody is interested if the option was set again, or the context is gone.
            let _unwanted = done.send(Some(trust));
        });
    }

    /// What `id`'s connections are made with, once it is read.
    pub(crate) async fn settings(&self, id: u64) -> Result<Settings, tls::Error> {
        let lost = || tls::Error::Trust("lost when the TLS agent was restarted; set them again".to_owned());
        let context: Context = self.maps.context(id).ok_or_else(lost)?;
        let known = self.lock().entry(id).or_default().clone();
        let tls = match (&known.trust, context.trust_sets) {
            (None, 0) => self.system.clone(),
            (Some(trust), sequence) if trust.sequence == sequence => {
                let mut loaded = trust.loaded.clone();
                let value = loaded.wait_for(Option::is_some).await.map_err(|_closed| lost())?;
                value.clone().ok_or_else(lost)?.map_err(tls::Error::Trust)?
            }
            (None | Some(_), _) => return Err(lost()),
        };
        let reuse = context.scalar(Setting::SessionReuse) != 0;
        Ok(Settings { tls, sessions: reuse.then_some(known.sessions) })
    }

    /// Forgets a context that no socket uses any more.
    pub(crate) fn forget_if_gone(&self, id: u64) {
        if self.maps.context(id).is_none() {
            self.lock().remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The certificates of a PEM text, or of the file or directory that a text names.
fn certificates(caller: ssa_common::socket::Caller, value: &[u8]) -> Result<Vec<X509>, String> {
    const INLINE: &[u8] = b"-----BEGIN";
    let files = if value.starts_with(INLINE) {
        vec![value.to_vec()]
    } else {
        let path = std::str::from_utf8(value).map_err(|_bytes| "the path is not UTF-8".to_owned())?;
        caller::read(caller, Path::new(path)).map_err(|error| error.to_string())?
    };
    let mut all = Vec::new();
    for file in &files {
        all.extend(X509::stack_from_pem(file).map_err(|error| format!("not PEM certificates: {error}"))?);
    }
    if all.is_empty() { Err("no certificate found".to_owned()) } else { Ok(all) }
}
