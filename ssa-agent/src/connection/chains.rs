//! Peers' certificates, as `getsockopt` gives them out: each is stored once, for as long as an open socket has it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use openssl::{sha::sha256, x509::X509};
use ssa_common::{
    certificate::{CHAIN_MAX, Certificate, Chain, Digest},
    limits::OPTION_BYTES,
};

use super::error::Error;
use crate::{kernel::AnswerMap, sync::lock};

/// Certificate chains in the hooks' maps, and the sockets that have them.
pub(crate) struct Chains {
    maps: Arc<dyn AnswerMap>,
    kept: Mutex<ChainCounts>,
    /// Mark of chains that are a successor's: set by a handover, taken back if that fails; nothing is deleted meanwhile.
    left: AtomicBool,
}

#[derive(Default)]
struct ChainCounts {
    /// Chain of each socket, by the socket's id.
    sockets: HashMap<u64, Digest>,
    /// Number of sockets that have a chain, and the chain's certificates.
    chains: HashMap<Digest, (usize, Vec<Digest>)>,
    /// Number of chains that have a certificate.
    certificates: HashMap<Digest, usize>,
}

impl Chains {
    /// Takes over the chains that the sockets of an agent before this one have.
    pub(crate) fn new(maps: Arc<dyn AnswerMap>) -> Self {
        let mut kept = ChainCounts::default();
        for (id, digest, chain) in maps.inherited_chains() {
            let stored = CHAIN_MAX.min(chain.count as usize);
            kept.enter(id, digest, || chain.certificates[..stored].to_vec());
        }
        Self { maps, kept: Mutex::new(kept), left: AtomicBool::new(false) }
    }

    /// Publishes the chain of a socket's connection, leaf first, and returns its digest: SHA-256 of the certificates'
    /// digests. The chain that the socket had before is forgotten. Errors: [`Error::NoRoom`] if a map is full; nothing
    /// is left in it then.
    pub(crate) fn publish(&self, id: u64, certificates: &[X509]) -> Result<Digest, Error> {
        let ders: Vec<Vec<u8>> = certificates.iter().map(|one| one.to_der()).collect::<Result<_, _>>()?;
        let digests: Vec<Digest> = ders.iter().map(|der| sha256(der)).collect();
        let digest = sha256(digests.as_flattened());
        self.forget(id);
        let mut kept = self.lock();
        if !kept.chains.contains_key(&digest) {
            let stored = || ders.iter().zip(&digests).take(CHAIN_MAX);
            let new: Vec<_> = stored().filter(|(_der, one)| !kept.certificates.contains_key(*one)).collect();
            let put = || -> Result<(), Error> {
                for (der, one) in &new {
                    self.maps.put_certificate(one, &encode(der)).map_err(Error::NoRoom)?;
                }
                self.maps.put_chain(&digest, &encode_chain(certificates, &digests)?).map_err(Error::NoRoom)
            };
            if let Err(error) = put() {
                new.iter().for_each(|(_der, one)| self.maps.remove_certificate(one));
                return Err(error);
            }
        }
        kept.enter(id, digest, || digests.into_iter().take(CHAIN_MAX).collect());
        Ok(digest)
    }

    /// Leaves the chains to a successor (true), or takes them back (false).
    pub(crate) fn leave(&self, left: bool) {
        self.left.store(left, Ordering::SeqCst);
    }

    /// Forgets the chain of a socket that is closed, or has lost its connection for a new one; deletes what no socket
    /// has any more.
    pub(crate) fn forget(&self, id: u64) {
        if self.left.load(Ordering::SeqCst) {
            return;
        }
        let mut kept = self.lock();
        let Some(digest) = kept.sockets.remove(&id) else { return };
        let Some((sockets, _certificates)) = kept.chains.get_mut(&digest) else { return };
        *sockets -= 1;
        if *sockets > 0 {
            return;
        }
        let (_none, certificates) = kept.chains.remove(&digest).unwrap_or_default();
        self.maps.remove_chain(&digest);
        for one in certificates {
            if let Some(chains) = kept.certificates.get_mut(&one) {
                *chains -= 1;
                if *chains == 0 {
                    kept.certificates.remove(&one);
                    self.maps.remove_certificate(&one);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ChainCounts> {
        lock(&self.kept)
    }
}

impl ChainCounts {
    fn enter(&mut self, id: u64, digest: Digest, certificates: impl FnOnce() -> Vec<Digest>) {
        if self.sockets.insert(id, digest) == Some(digest) {
            return;
        }
        let Self { chains, certificates: counts, .. } = self;
        let (sockets, _certificates) = chains.entry(digest).or_insert_with(|| {
            let certificates = certificates();
            for one in &certificates {
                *counts.entry(*one).or_default() += 1;
            }
            (0, certificates)
        });
        *sockets += 1;
    }
}

fn encode(der: &[u8]) -> Certificate {
    let mut value =
        Certificate { len: u32::try_from(der.len()).unwrap_or(u32::MAX), reserved: 0, der: [0; OPTION_BYTES] };
    if let Some(room) = value.der.get_mut(..der.len()) {
        room.copy_from_slice(der);
    }
    value
}

fn encode_chain(certificates: &[X509], digests: &[Digest]) -> Result<Chain, Error> {
    let mut value = Chain {
        count: u32::try_from(certificates.len()).unwrap_or(u32::MAX),
        pem_count: 0,
        certificates: [[0; 32]; CHAIN_MAX],
        ends: [0; CHAIN_MAX],
        pem: [0; OPTION_BYTES],
    };
    for (room, digest) in value.certificates.iter_mut().zip(digests) {
        *room = *digest;
    }
    let mut end = 0;
    for (index, certificate) in certificates.iter().take(CHAIN_MAX).enumerate() {
        let pem = certificate.to_pem()?;
        // The text's NUL needs room, too.
        let Some(room) = value.pem[..OPTION_BYTES - 1].get_mut(end..end + pem.len()) else { break };
        room.copy_from_slice(&pem);
        end += pem.len();
        value.ends[index] = u16::try_from(end).unwrap_or(u16::MAX);
        value.pem_count += 1;
    }
    Ok(value)
}
