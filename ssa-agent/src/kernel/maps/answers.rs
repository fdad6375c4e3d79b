//! Maps of answers to `getsockopt`, `getpeername` and `getsockname`: CONNECTIONS, CHAINS, CERTIFICATES.

use std::{collections::HashSet, sync::Mutex};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use ssa_common::{
    certificate::{Certificate, Chain, Digest},
    connection::Connection,
};

use super::table::{keys, take};
use crate::{kernel::error::Error, sync::lock};

/// Answers to `getsockopt`, `getpeername` and `getsockname`, as connections write them. A trait, so that what decides
/// on a connection can be tested without a kernel.
pub(crate) trait AnswerMap: Send + Sync {
    /// Publishes what is known of an attempt. False if the socket is closed already, or at a later attempt: the hooks
    /// make the entry and delete it, the agent only fills it.
    fn publish(&self, id: u64, answers: &Connection) -> bool;

    /// Publishes the answers of a socket that is to come out of a listener. Errors: the map is full, or has the id
    /// already.
    fn publish_accepted(&self, id: u64, answers: &Connection) -> Result<(), Error>;

    /// Publishes the reason why a listener can't serve. A full map is no error: then the application has no reason.
    fn publish_listener(&self, id: u64, answers: &Connection);

    /// Count of connects that a socket is at, from 1; none if it is closed.
    fn attempt(&self, id: u64) -> Option<u32>;

    /// Deletes the answers of a socket that no application ever had, or has no more. Absent is as good.
    fn forget(&self, id: u64);

    /// Publishes a chain, which is whole from then on: its certificates are there before. Errors: the map is full.
    fn put_chain(&self, digest: &Digest, chain: &Chain) -> Result<(), Error>;

    /// Publishes a certificate. Errors: the map is full.
    fn put_certificate(&self, digest: &Digest, certificate: &Certificate) -> Result<(), Error>;

    /// Deletes a chain that no connection has any more. Absent is as good.
    fn remove_chain(&self, digest: &Digest);

    /// Deletes a certificate that no chain has any more. Absent is as good.
    fn remove_certificate(&self, digest: &Digest);

    /// Lists the chains of the open sockets that an agent before this one has connected: socket id, digest, chain.
    /// Chains and certificates of others are deleted.
    fn inherited_chains(&self) -> Vec<(u64, Digest, Chain)>;
}

/// Maps of answers by socket id, and of the certificates that they refer to. Each call is one bpf(2) or a few: the
/// locks are held for microseconds, and never across an await.
pub(crate) struct AnswerMaps {
    connections: Mutex<HashMap<MapData, u64, Connection>>,
    chains: Mutex<HashMap<MapData, Digest, Chain>>,
    certificates: Mutex<HashMap<MapData, Digest, Certificate>>,
}

impl AnswerMaps {
    /// Takes the maps out of the loaded object.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            connections: Mutex::new(take(ebpf, "CONNECTIONS")?),
            chains: Mutex::new(take(ebpf, "CHAINS")?),
            certificates: Mutex::new(take(ebpf, "CERTIFICATES")?),
        })
    }
}

impl AnswerMap for AnswerMaps {
    fn publish(&self, id: u64, answers: &Connection) -> bool {
        const BPF_EXIST: u64 = 2;
        let mut connections = lock(&self.connections);
        let now = connections.get(&id, 0).map(|connection| connection.attempt);
        // Nor may a late answer take the place of a later attempt's.
        now.is_ok_and(|attempt| attempt <= answers.attempt) && connections.insert(id, answers, BPF_EXIST).is_ok()
    }

    fn publish_accepted(&self, id: u64, answers: &Connection) -> Result<(), Error> {
        const BPF_NOEXIST: u64 = 1;
        let put = lock(&self.connections).insert(id, answers, BPF_NOEXIST);
        put.map_err(|source| Error::Map { name: "CONNECTIONS", source })
    }

    fn attempt(&self, id: u64) -> Option<u32> {
        lock(&self.connections).get(&id, 0).ok().map(|connection| connection.attempt)
    }

    fn put_chain(&self, digest: &Digest, chain: &Chain) -> Result<(), Error> {
        lock(&self.chains).insert(digest, chain, 0).map_err(|source| Error::Map { name: "CHAINS", source })
    }

    fn put_certificate(&self, digest: &Digest, certificate: &Certificate) -> Result<(), Error> {
        let put = lock(&self.certificates).insert(digest, certificate, 0);
        put.map_err(|source| Error::Map { name: "CERTIFICATES", source })
    }

    fn remove_chain(&self, digest: &Digest) {
        let _absent = lock(&self.chains).remove(digest);
    }

    fn remove_certificate(&self, digest: &Digest) {
        let _absent = lock(&self.certificates).remove(digest);
    }

    fn inherited_chains(&self) -> Vec<(u64, Digest, Chain)> {
        let mut chains = lock(&self.chains);
        let mut certificates = lock(&self.certificates);
        let inherited: Vec<(u64, Digest, Chain)> = lock(&self.connections)
            .iter()
            .filter_map(Result::ok)
            .filter_map(|(id, connection)| Some((id, connection.chain, chains.get(&connection.chain, 0).ok()?)))
            .collect();
        let kept: HashSet<Digest> = inherited.iter().map(|(_id, digest, _chain)| *digest).collect();
        let kept_certificates: HashSet<Digest> =
            inherited.iter().flat_map(|(_id, _digest, chain)| chain.certificates).collect();
        for digest in keys(&chains).into_iter().filter(|digest| !kept.contains(digest)) {
            let _absent = chains.remove(&digest);
        }
        for digest in keys(&certificates).into_iter().filter(|digest| !kept_certificates.contains(digest)) {
            let _absent = certificates.remove(&digest);
        }
        inherited
    }

    fn publish_listener(&self, id: u64, answers: &Connection) {
        let _full = lock(&self.connections).insert(id, answers, 0);
    }

    fn forget(&self, id: u64) {
        let _absent = lock(&self.connections).remove(&id);
    }
}
