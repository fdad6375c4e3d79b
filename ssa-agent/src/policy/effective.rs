//! A policy with its files read: certificates, keys, and the context that trusts whom the policy trusts.

use std::{
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use openssl::ssl::SslContext;
use ssa_common::policy::Policy as Row;

use super::{file::File, policy::Policy, row::exact};
use crate::tls::{Credential, Credentials as PendingCredentials, Parameters, Sessions, TrustAnchors, context};

/// A policy with what its files have in them: all that connections need of it.
pub(crate) struct Effective {
    /// What the administrator wrote, with all defaults.
    pub(crate) policy: Policy,
    /// Number that no other policy has, before or after a reload.
    pub(crate) generation: u64,
    /// The policy as the hooks would check it, if they saw all that it goes by.
    pub(crate) row: Row,
    /// Context of clients: it trusts whom the policy trusts.
    pub(crate) tls: SslContext,
    /// Certificates with keys, for applications that bring none.
    pub(crate) credentials: Arc<[Credential]>,
    /// Sessions of connections by rule, which share them.
    pub(crate) sessions: Arc<Sessions>,
    /// Its files, as they were just before they were read.
    pub(crate) files: Vec<Stamp>,
}

/// A file's state, which is another when it was replaced: inode, size, time of modification. None if it is not there.
pub(crate) type Stamp = Option<(u64, u64, i64, i64)>;

/// The state of a policy's files now.
pub(crate) fn stamps(policy: &Policy) -> Vec<Stamp> {
    let credentials = [&policy.credentials.chain, &policy.credentials.key];
    let files = policy.trust.files.iter().chain(credentials.into_iter().flatten());
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
    };
    files.map(stamp).collect()
}

/// A policy that can't be put in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// A file can't be read, or is no good; the text says which and why.
    #[error("{0}")]
    Files(String),
    #[error("the policy's parts contradict each other: {0}")]
    Contradiction(String),
}

impl Effective {
    /// Reads the policy's trust anchors, certificates and keys.
    pub(crate) fn load(policy: Policy) -> Result<Self, LoadError> {
        static LOADED: AtomicU64 = AtomicU64::new(1);
        policy.check().map_err(|(section, what)| LoadError::Contradiction(format!("[{section}] {what}")))?;
        let files = stamps(&policy);
        let tls = context(&Parameters::from(&policy), None).map_err(|error| LoadError::Files(error.to_string()))?;
        let credentials = credentials(&policy).map_err(LoadError::Files)?;
        let generation = LOADED.fetch_add(1, Ordering::Relaxed);
        Ok(Self { row: exact(&policy), policy, generation, tls, credentials, sessions: Arc::default(), files })
    }
}

fn credentials(policy: &Policy) -> Result<Arc<[Credential]>, String> {
    let (Some(chain), Some(key)) = (&policy.credentials.chain, &policy.credentials.key) else {
        return Ok(Arc::default());
    };
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let mut pending = PendingCredentials::default();
    pending.add_chain(&read(chain)?, None).map_err(|error| format!("{}: {error}", chain.display()))?;
    pending.add_key(&read(key)?).map_err(|error| format!("{}: {error}", key.display()))?;
    Ok(pending.finish()?.into())
}

impl File {
    /// Reads all certificates and keys that it names, to see that they are good.
    pub(crate) fn load_all(&self) -> Result<(), LoadError> {
        let mut seen = Vec::new();
        for (_key, policy) in self.policies() {
            if !seen.contains(&policy) {
                Effective::load(policy.clone())?;
                seen.push(policy);
            }
        }
        Ok(())
    }
}

impl From<&Policy> for Parameters {
    fn from(policy: &Policy) -> Self {
        let trust = &policy.trust;
        Self {
            trust: TrustAnchors {
                system: trust.system,
                files: trust.files.clone(),
                directories: trust.directories.clone(),
            },
            verify_depth: u32::try_from(trust.verify_depth).unwrap_or(u32::MAX),
            strict: trust.strict,
            groups: policy.tls.groups.clone(),
            signature_algorithms: policy.tls.signature_algorithms.clone(),
            tickets: policy.sessions.tickets,
        }
    }
}
