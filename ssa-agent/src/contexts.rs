//! What the agent keeps of each context beside the kernel's settings: certificates and keys that the
//! program brought, and cached sessions.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openssl::ssl::SslContext;
use ssa_common::{
    context::{Context, Setting},
    event::BlobSet,
    socket::Caller,
    uapi::{self, OPTIONS, Place},
};
use tokio::sync::{OnceCell, watch};

use crate::{
    caller,
    kernel::{self, maps::Maps},
    policy::Effective,
    tls::{
        self,
        cipher::Suite,
        credentials::{Credential, Credentials, certificates},
        session::Sessions,
    },
};

/// Contexts that the agent knows something of, by id.
pub(crate) struct Contexts {
    maps: Arc<Maps>,
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
}

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
    /// Of both generations, best first.
    pub(crate) suites: Vec<Suite>,
    /// Application protocols to offer, as on the wire (RFC 7301); empty for none.
    pub(crate) alpn: Vec<u8>,
    /// How long a session may be resumed.
    pub(crate) session_ttl: Duration,
}

impl Contexts {
    /// Gives the hooks the names of the cipher suites.
    pub(crate) fn new(maps: Arc<Maps>) -> Result<Self, kernel::Error> {
        let same = Suite::all().all(|suite| {
            let before = maps.cipher_name(suite.number());
            before.is_empty() || before == suite.name()
        });
        let renumbered = if same { HashSet::new() } else { maps.contexts_with_ciphers() };
        for suite in Suite::all() {
            maps.put_cipher(suite.number(), suite.name(), suite.standard_name())?;
        }
        Ok(Self { maps, known: Mutex::default(), renumbered })
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
            known.made = Making::default();
            known.sessions = Arc::default();
        }
        let caller = event.caller;
        tokio::task::spawn_blocking(move || {
            // Nobody is interested if the context is gone.
            let _unwanted = done.send(Some(files(caller, &value)));
        });
    }

    /// What `id`'s connections are made with under a policy, once it is read.
    pub(crate) async fn settings(&self, id: u64, effective: &Effective) -> Result<Settings, tls::Error> {
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
        let known = {
            let mut all = self.lock();
            let known = all.entry(id).or_default();
            let shape =
                Shape { generation: effective.generation, versions, suites: suites.clone(), alpn: alpn.clone() };
            if known.shape != shape {
                known.shape = shape;
                known.sessions = Arc::default();
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
        let Made { tls, credentials } = made.clone().map_err(tls::Error::Brought)?;
        let sessions = reuse.then_some(known.sessions);
        Ok(Settings { tls, credentials, sessions, versions, suites, alpn, session_ttl })
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
    for blob in blobs {
        let mut read = blob.read.clone();
        let read = read.wait_for(Option::is_some).await.map_err(|_gone| "reading was given up".to_owned())?.clone();
        let of_option = |text: String| {
            let name = uapi::option(blob.option).map_or("?", |option| option.name);
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
    let own: Arc<[Credential]> = credentials.finish()?.into();
    let credentials = if own.is_empty() { Arc::clone(&effective.credentials) } else { own };
    let tls = match trusted {
        None => effective.tls.clone(),
        Some(trusted) => tls::context(&effective.policy, Some(trusted)).map_err(|error| error.to_string())?,
    };
    Ok(Made { tls, credentials })
}

/// A list of protocols as ClientHello has it: each with its length before it.
fn wire<'a>(protocols: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let protocols = protocols.filter(|protocol| !protocol.is_empty());
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
