//! OCSP responses about the machine's own certificates, for its listeners to staple.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openssl::x509::{X509, X509Ref, X509VerifyResult};
use tracing::warn;

use super::{fetch::Origin, revocation::Revocation, subject::Subject};
use crate::{
    policy,
    tls::{Credential, Staple},
};

/// Certificates of one listener that responses are fetched for.
pub(crate) struct Stapling {
    revocation: Arc<Revocation>,
    /// Certificates that name a responder, with their issuers.
    subjects: Arc<[Subject]>,
    /// Whether [`Self::keep_fresh`] has begun.
    is_kept: AtomicBool,
}

impl Stapling {
    /// Makes the stapling of these credentials' certificates, as far as their chains have their issuers. Nothing is
    /// fetched yet.
    pub(crate) fn new(revocation: &Arc<Revocation>, credentials: &[Credential]) -> Arc<Self> {
        let subjects = credentials.iter().filter_map(|credential| of_chain(credential.chain()));
        let subjects = subjects.filter(Subject::has_responder).collect();
        Arc::new(Self { revocation: Arc::clone(revocation), subjects, is_kept: AtomicBool::new(false) })
    }

    /// Makes the function that looks up the responses that are there. It outlives this, with the open connections that
    /// have it, and fetches nothing.
    pub(crate) fn staple(&self) -> Staple {
        let (revocation, subjects) = (Arc::clone(&self.revocation), Arc::clone(&self.subjects));
        Arc::new(move |leaf: &X509Ref| {
            let subject = subjects.iter().find(|subject| *subject.certificate == *leaf)?;
            revocation.staple(subject)
        })
    }

    /// Fetches responses before those that are there run out, in a task, for as long as this is in use. Only the first
    /// call counts. Failures are logged.
    pub(crate) fn keep_fresh(self: &Arc<Self>, policy: &policy::Revocation, from: impl FnOnce() -> Origin) {
        const LOOK: Duration = Duration::from_secs(5);
        if self.subjects.is_empty() || self.is_kept.swap(true, Ordering::Relaxed) {
            return;
        }
        let (stapling, policy, from) = (Arc::downgrade(self), policy.clone(), from());
        tokio::spawn(async move {
            let mut logged = HashSet::new();
            while let Some((revocation, subjects)) =
                stapling.upgrade().map(|one| (Arc::clone(&one.revocation), Arc::clone(&one.subjects)))
            {
                for (index, subject) in subjects.iter().enumerate() {
                    match revocation.refresh_staple(subject, &policy, from.clone()).await {
                        Ok(()) => drop(logged.remove(&index)),
                        // Once, until it goes well again.
                        Err(error) if logged.insert(index) => warn!(error, "nothing fresh to staple"),
                        Err(_again) => {}
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }
}

/// Subject of a chain: the leaf and its issuer, if the chain has it. An application may bring any two certificates.
fn of_chain(chain: &[X509]) -> Option<Subject> {
    let (leaf, issuer) = (chain.first()?, chain.get(1)?);
    let issued = issuer.issued(leaf) == X509VerifyResult::OK && leaf.verify(&*issuer.public_key().ok()?).ok()?;
    if issued { Subject::new(leaf, issuer).ok() } else { None }
}
