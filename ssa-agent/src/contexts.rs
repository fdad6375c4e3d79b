//! What the agent keeps of each context beside the kernel's settings: certificates and keys that the
//! program brought, and cached sessions.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openssl::ssl::SslContext;
use ssa_common::{
    context::{Context, Setting},
    event::BlobSet,
    socket::Caller,
    uapi::{self, OPTIONS},
};
use tokio::sync::{OnceCell, watch};

use crate::{
    caller,
    kernel::maps::Maps,
    tls::{
        self,
        credentials::{Credential, Credentials, certificates},
        session::Sessions,
    },
};

/// Contexts that the agent knows something of, by id.
pub(crate) struct Contexts {
    maps: Arc<Maps>,
    system: SslContext,
    known: Mutex<HashMap<u64, Known>>,
}

#[derive(Clone, Default)]
struct Known {
    /// Paths and PEM texts in the order in which they were set, read or being read.
    blobs: Vec<Brought>,
    /// What was made of all of them, once a connection has asked.
    made: Arc<OnceCell<Result<Made, String>>>,
    sessions: Arc<Sessions>,
}

/// One option's value: files of PEM texts.
#[derive(Clone)]
struct Brought {
    option: i32,
    /// Which set of this context it was, from 1.
    sequence: u32,
    read: watch::Receiver<Option<Result<Vec<Vec<u8>>, String>>>,
}

/// Trust and own credentials of a context.
#[derive(Clone)]
struct Made {
    tls: SslContext,
    credentials: Arc<[Credential]>,
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
    /// Application protocols to offer, as on the wire (RFC 7301); empty for none.
    pub(crate) alpn: Vec<u8>,
    /// How long a session may be resumed.
    pub(crate) session_ttl: Duration,
}

impl Contexts {
    /// Reads the system's trust store.
    pub(crate) fn new(maps: Arc<Maps>) -> Result<Self, openssl::error::ErrorStack> {
        Ok(Self { maps, system: tls::context(None)?, known: Mutex::default() })
    }

    /// Takes an option's value that waits in the map, and starts to read what it names.
    pub(crate) fn set(&self, event: &BlobSet) {
        let Some(value) = self.maps.take_blob(&event.key) else { return };
        let option = i32::try_from(event.key.option).unwrap_or(0);
        let (done, read) = watch::channel(None);
        {
            let mut known = self.lock();
            let known = known.entry(event.key.context).or_default();
            known.blobs.push(Brought { option, sequence: event.key.sequence, read });
            // Sessions were made with other trust, or by another identity.
            known.made = Arc::default();
            known.sessions = Arc::default();
        }
        let caller = event.caller;
        tokio::task::spawn_blocking(move || {
            // Nobody is interested if the context is gone.
            let _unwanted = done.send(Some(files(caller, &value)));
        });
    }

    /// What `id`'s connections are made with, once it is read.
    pub(crate) async fn settings(&self, id: u64) -> Result<Settings, tls::Error> {
        let lost = || {
            tls::Error::Brought("certificates were lost when the TLS agent was restarted; set them again".to_owned())
        };
        let context: Context = self.maps.context(id).ok_or_else(lost)?;
        let known = self.lock().entry(id).or_default().clone();
        let sequences = known.blobs.iter().map(|blob| blob.sequence);
        if !sequences.eq(1..=context.blob_sets) {
            return Err(lost());
        }
        let made = known.made.get_or_init(|| make(self.system.clone(), &known.blobs)).await;
        let Made { tls, credentials } = made.clone().map_err(tls::Error::Brought)?;
        let reuse = context.scalar(Setting::SessionReuse) != 0;
        let versions = (context.scalar(Setting::VersionMin), context.scalar(Setting::VersionMax));
        let session_ttl = Duration::from_secs(context.scalar(Setting::SessionTtl).unsigned_abs());
        let reuse = reuse && !session_ttl.is_zero();
        let alpn = wire(context.alpn.as_str().unwrap_or_default());
        Ok(Settings { tls, credentials, sessions: reuse.then_some(known.sessions), versions, alpn, session_ttl })
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

/// What all that a program has brought comes to. The last set of trusted certificates counts.
async fn make(system: SslContext, blobs: &[Brought]) -> Result<Made, String> {
    let mut trusted = None;
    let mut credentials = Credentials::default();
    for blob in blobs {
        let mut read = blob.read.clone();
        let read = read.wait_for(Option::is_some).await.map_err(|_gone| "reading was given up".to_owned())?.clone();
        let of_option = |text: String| {
            let name = OPTIONS.iter().find(|option| option.number == blob.option).map_or("?", |option| option.name);
            format!("{name}: {text}")
        };
        let files = read.unwrap_or_else(|| Err("nothing was read".to_owned())).map_err(of_option)?;
        // A file need not end with a line's end.
        let pem = files.join(&b'\n');
        match blob.option {
            uapi::TLS_TRUSTED_PEER_CERTIFICATES => trusted = Some(certificates(&pem).map_err(of_option)?),
            uapi::TLS_CERTIFICATE_CHAIN => credentials.add_chain(&pem).map_err(of_option)?,
            uapi::TLS_PRIVATE_KEY => credentials.add_key(&pem).map_err(of_option)?,
            _ => return Err(of_option("the agent does not know this option".to_owned())),
        }
    }
    let credentials = credentials.finish()?.into();
    let tls = match trusted {
        None => system,
        Some(trusted) => tls::context(Some(trusted)).map_err(|error| error.to_string())?,
    };
    Ok(Made { tls, credentials })
}

/// A list of protocols as ClientHello has it: each with its length before it.
fn wire(list: &str) -> Vec<u8> {
    let protocols = list.split(',').filter(|protocol| !protocol.is_empty());
    protocols.flat_map(|protocol| u8::try_from(protocol.len()).into_iter().chain(protocol.bytes())).collect()
}

/// A PEM text, or the texts of the file or directory that a text names.
fn files(caller: Caller, value: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    const INLINE: &[u8] = b"-----BEGIN";
    if value.starts_with(INLINE) {
        return Ok(vec![value.to_vec()]);
    }
    let path = std::str::from_utf8(value).map_err(|_bytes| "the path is not UTF-8".to_owned())?;
    caller::read(caller, Path::new(path)).map_err(|error| error.to_string())
}
