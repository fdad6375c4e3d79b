//! The hooks' maps, as the agent reads and writes them.

use std::{
    collections::HashSet,
    os::{
        fd::{AsFd as _, AsRawFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, Map, MapData, MapError, Queue, RingBuf, SkStorage,
        lpm_trie::{Key, LpmTrie},
    },
};
use ssa_common::{
    certificate::{Certificate, Chain, Digest},
    cipher::{self, CipherName},
    connection::Connection,
    context::{Blob, BlobKey, Context, KeptPath},
    event::Listening,
    limits::Counter,
    policy::{Policy, PolicyKey},
    rule::{Action, AddressKey, Groups, PortKey},
    socket::Service,
    steer::LegKey,
};

use super::{Error, sys};
use crate::policy::rule::Tables;

/// Maps that any task may use. Each call is one bpf(2), so the locks are held for about a
/// microsecond and never across an await.
pub(crate) struct Maps {
    blobs: Mutex<HashMap<MapData, BlobKey, Blob>>,
    certificates: Mutex<HashMap<MapData, Digest, Certificate>>,
    cgroup_classes: Mutex<HashMap<MapData, u64, u32>>,
    chains: Mutex<HashMap<MapData, Digest, Chain>>,
    ciphers: Mutex<HashMap<MapData, u64, u32>>,
    cipher_names: Mutex<Array<MapData, CipherName>>,
    connections: Mutex<HashMap<MapData, u64, Connection>>,
    contexts: Mutex<HashMap<MapData, u64, Context>>,
    counters: Mutex<Array<MapData, u64>>,
    ids: Mutex<Queue<MapData, u64>>,
    legs: Mutex<HashMap<MapData, LegKey, u64>>,
    listening: HashMap<MapData, u64, Listening>,
    marks: Mutex<HashMap<MapData, u64, u32>>,
    listeners: Mutex<SkStorage<MapData, u32>>,
    paths: Mutex<HashMap<MapData, BlobKey, KeptPath>>,
    policies: Mutex<HashMap<MapData, PolicyKey, Policy>>,
    ruled: Mutex<HashMap<MapData, u64, u32>>,
    rule_addresses: Mutex<LpmTrie<MapData, AddressKey, Groups>>,
    rule_ports: Mutex<LpmTrie<MapData, PortKey, Action>>,
    user_classes: Mutex<HashMap<MapData, u32, u32>>,
    services: MapData,
    users: Mutex<HashMap<MapData, u32, u64>>,
    /// When to look at them next.
    users_at: Mutex<Instant>,
    /// Where the maps are pinned.
    pins: PathBuf,
    names: Mutex<Option<RingBuf<MapData>>>,
    names_wanted: Mutex<Array<MapData, u32>>,
}

/// An entry of the hooks' rules.
pub(crate) enum RuleKey {
    Address(Key<AddressKey>),
    Port(Key<PortKey>),
}

impl RuleKey {
    /// The set that it is of; zero if it does not say.
    pub(crate) fn set(&self) -> u32 {
        match self {
            Self::Address(key) => key.data().set,
            Self::Port(_) => 0,
        }
    }

    /// The group that it is of; zero if it does not say.
    pub(crate) fn group(&self) -> u32 {
        match self {
            Self::Address(_) => 0,
            Self::Port(key) => key.data().group,
        }
    }
}

/// Entries that may stay although nobody needs them.
const MANY: usize = 1000;

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf, pins: &Path) -> Result<Self, Error> {
        Ok(Self {
            blobs: Mutex::new(take(ebpf, "BLOBS")?),
            certificates: Mutex::new(take(ebpf, "CERTIFICATES")?),
            cgroup_classes: Mutex::new(take(ebpf, "CGROUP_CLASSES")?),
            chains: Mutex::new(take(ebpf, "CHAINS")?),
            ciphers: Mutex::new(take(ebpf, "CIPHERS")?),
            cipher_names: Mutex::new(take(ebpf, "CIPHER_NAMES")?),
            connections: Mutex::new(take(ebpf, "CONNECTIONS")?),
            contexts: Mutex::new(take(ebpf, "CONTEXTS")?),
            counters: Mutex::new(take(ebpf, "COUNTERS")?),
            ids: Mutex::new(take(ebpf, "IDS")?),
            legs: Mutex::new(take(ebpf, "LEGS")?),
            listening: take(ebpf, "LISTENING")?,
            marks: Mutex::new(take(ebpf, "SOCKET_CALLS")?),
            listeners: Mutex::new(take(ebpf, "AGENT_LISTENERS")?),
            paths: Mutex::new(take(ebpf, "PATHS")?),
            policies: Mutex::new(take(ebpf, "POLICIES")?),
            ruled: Mutex::new(take(ebpf, "CGROUP_RULES")?),
            rule_addresses: Mutex::new(take(ebpf, "RULE_ADDRESSES")?),
            rule_ports: Mutex::new(take(ebpf, "RULE_PORTS")?),
            user_classes: Mutex::new(take(ebpf, "USER_CLASSES")?),
            services: match ebpf.take_map("SERVICES") {
                Some(Map::CgroupStorage(map)) => map,
                Some(_) | None => return Err(Error::Missing { name: "SERVICES" }),
            },
            users: Mutex::new(take(ebpf, "USERS")?),
            users_at: Mutex::new(Instant::now()),
            pins: pins.to_owned(),
            names: Mutex::new(Some(take(ebpf, "DNS_MESSAGES")?)),
            names_wanted: Mutex::new(take(ebpf, "DNS_WANTED")?),
        })
    }

    /// Publishes what is known of an attempt. False if the socket is closed already: the hooks make
    /// the entry and delete it, the agent only fills it.
    pub(crate) fn publish(&self, id: u64, connection: &Connection) -> bool {
        const BPF_EXIST: u64 = 2;
        let mut connections = lock(&self.connections);
        let now = connections.get(&id, 0).map(|connection| connection.attempt);
        // Nor may a late answer take the place of a later attempt's.
        now.is_ok_and(|attempt| attempt <= connection.attempt) && connections.insert(id, connection, BPF_EXIST).is_ok()
    }

    /// The attempt that a socket is at, if it is open.
    pub(crate) fn attempt(&self, id: u64) -> Option<u32> {
        lock(&self.connections).get(&id, 0).ok().map(|connection| connection.attempt)
    }

    /// A context's settings, if a socket still uses it.
    pub(crate) fn context(&self, id: u64) -> Option<Context> {
        lock(&self.contexts).get(&id, 0).ok()
    }

    /// Takes an option's value out of its map.
    pub(crate) fn take_blob(&self, key: &BlobKey) -> Option<Vec<u8>> {
        let mut blobs = lock(&self.blobs);
        let blob = blobs.get(key, 0).ok()?;
        // Only the agent deletes entries that were announced, so it is there.
        let _deleted = blobs.remove(key);
        blob.bytes.get(..blob.len as usize).map(<[u8]>::to_vec)
    }

    /// Keeps a path for the next agent. Full: it will have to be set again.
    pub(crate) fn keep_path(&self, key: &BlobKey, path: &KeptPath) {
        let mut paths = lock(&self.paths);
        let _full = paths.insert(key, path, 0);
        if lock(&self.contexts).get(&key.context, 0).is_err() {
            let _absent = paths.remove(key);
        }
    }

    /// Forgets a path of a context that is gone. Absent is as good.
    pub(crate) fn forget_path(&self, key: &BlobKey) {
        let _absent = lock(&self.paths).remove(key);
    }

    /// The paths that an agent before this one has kept.
    pub(crate) fn kept_paths(&self) -> Vec<(BlobKey, KeptPath)> {
        lock(&self.paths).iter().filter_map(Result::ok).collect()
    }

    /// Adds an id to the pool; false if it is full.
    pub(crate) fn offer_id(&self, id: u64) -> bool {
        lock(&self.ids).push(id, 0).is_ok()
    }

    /// Marks a socket as one of the agent's listeners.
    pub(crate) fn mark_listener(&self, listener: &impl AsRawFd) -> Result<(), Error> {
        lock(&self.listeners).insert(listener, 1, 0).map_err(|source| Error::Map { name: "AGENT_LISTENERS", source })
    }

    /// Publishes a chain, which is whole from then on. Its certificates are there before.
    pub(crate) fn put_chain(&self, digest: &Digest, chain: &Chain) -> Result<(), Error> {
        lock(&self.chains).insert(digest, chain, 0).map_err(|source| Error::Map { name: "CHAINS", source })
    }

    /// Publishes a certificate.
    pub(crate) fn put_certificate(&self, digest: &Digest, certificate: &Certificate) -> Result<(), Error> {
        let put = lock(&self.certificates).insert(digest, certificate, 0);
        put.map_err(|source| Error::Map { name: "CERTIFICATES", source })
    }

    /// Deletes a chain that no connection has any more. Absent is as good.
    pub(crate) fn remove_chain(&self, digest: &Digest) {
        let _absent = lock(&self.chains).remove(digest);
    }

    /// Deletes a certificate that no chain has any more. Absent is as good.
    pub(crate) fn remove_certificate(&self, digest: &Digest) {
        let _absent = lock(&self.certificates).remove(digest);
    }

    /// The chains of the open sockets that an agent before this one has connected: socket id, chain.
    /// Chains and certificates of others are deleted.
    pub(crate) fn inherited_chains(&self) -> Vec<(u64, Digest, Chain)> {
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

    /// Gives a cipher suite its number: by OpenSSL's name, and by another one, if it has one.
    pub(crate) fn put_cipher(&self, number: u8, name: &str, standard_name: Option<&str>) -> Result<(), Error> {
        let failed = |source| Error::Map { name: "CIPHERS", source };
        let mut entry = CipherName { bytes: [0; cipher::NAME_BYTES], len: name.len() as u32, reserved: 0 };
        entry.bytes[..name.len()].copy_from_slice(name.as_bytes());
        lock(&self.cipher_names).set(u32::from(number), entry, 0).map_err(failed)?;
        for name in [Some(name), standard_name].into_iter().flatten() {
            let hash = cipher::hash(name.as_bytes());
            lock(&self.ciphers).insert(hash, u32::from(number), 0).map_err(failed)?;
        }
        Ok(())
    }

    /// The name of a cipher suite by its number; empty if it has none.
    pub(crate) fn cipher_name(&self, number: u8) -> String {
        let name = lock(&self.cipher_names).get(&u32::from(number), 0);
        name.ok()
            .and_then(|name| name.bytes.get(..name.len as usize).map(<[u8]>::to_vec))
            .map_or_else(String::new, |name| String::from_utf8_lossy(&name).into_owned())
    }

    /// Forgets all names of cipher suites; returns the contexts that have lists by their numbers.
    pub(crate) fn forget_ciphers(&self) -> HashSet<u64> {
        let mut ciphers = lock(&self.ciphers);
        keys(&ciphers).iter().for_each(|hash| drop(ciphers.remove(hash)));
        let none = CipherName { bytes: [0; cipher::NAME_BYTES], len: 0, reserved: 0 };
        let mut names = lock(&self.cipher_names);
        (0..names.len()).for_each(|number| drop(names.set(number, none, 0)));
        lock(&self.contexts).keys().filter_map(Result::ok).collect()
    }

    /// Writes a row of policy.
    pub(crate) fn set_policy(&self, key: &PolicyKey, row: &Policy) -> Result<(), Error> {
        lock(&self.policies).insert(key, row, 0).map_err(|source| Error::Map { name: "POLICIES", source })
    }

    /// Deletes a row. Absent is as good.
    pub(crate) fn remove_policy(&self, key: &PolicyKey) {
        let _absent = lock(&self.policies).remove(key);
    }

    /// Classes of cgroups and users; those that had one, and have none now, lose it.
    pub(crate) fn set_classes(
        &self,
        cgroups: &std::collections::HashMap<u64, u32>,
        users: &std::collections::HashMap<u32, u32>,
    ) -> Result<(), Error> {
        replace(&mut lock(&self.cgroup_classes), cgroups)
            .map_err(|source| Error::Map { name: "CGROUP_CLASSES", source })?;
        replace(&mut lock(&self.user_classes), users).map_err(|source| Error::Map { name: "USER_CLASSES", source })
    }

    /// The rows that an agent before this one has left.
    pub(crate) fn policy_keys(&self) -> Vec<PolicyKey> {
        keys(&lock(&self.policies))
    }

    /// Writes what the hooks look up for a set of rules, which is not in force yet.
    pub(crate) fn put_rules(&self, tables: &Tables) -> Result<Vec<RuleKey>, Error> {
        let mut keys = Vec::new();
        let done = self.insert_rules(tables, &mut keys);
        if done.is_err() {
            self.remove_rules(&keys);
        }
        done.map(|()| keys)
    }

    fn insert_rules(&self, tables: &Tables, keys: &mut Vec<RuleKey>) -> Result<(), Error> {
        let (mut addresses, mut ports) = (lock(&self.rule_addresses), lock(&self.rule_ports));
        for (bits, port, action) in &tables.ports {
            let key = Key::new(*bits, *port);
            ports.insert(&key, *action, 0).map_err(|source| Error::Map { name: "RULE_PORTS", source })?;
            keys.push(RuleKey::Port(key));
        }
        for (bits, address, groups) in &tables.addresses {
            let key = Key::new(*bits, *address);
            addresses.insert(&key, *groups, 0).map_err(|source| Error::Map { name: "RULE_ADDRESSES", source })?;
            keys.push(RuleKey::Address(key));
        }
        Ok(())
    }

    /// Deletes entries of sets that no cgroup has any more. Absent is as good.
    pub(crate) fn remove_rules(&self, keys: &[RuleKey]) {
        let (mut addresses, mut ports) = (lock(&self.rule_addresses), lock(&self.rule_ports));
        for key in keys {
            match key {
                RuleKey::Address(key) => drop(addresses.remove(key)),
                RuleKey::Port(key) => drop(ports.remove(key)),
            }
        }
    }

    /// The entries of all sets.
    pub(crate) fn rule_keys(&self) -> Vec<RuleKey> {
        let addresses: Vec<_> = lock(&self.rule_addresses).keys().filter_map(Result::ok).collect();
        let ports: Vec<_> = lock(&self.rule_ports).keys().filter_map(Result::ok).collect();
        addresses.into_iter().map(RuleKey::Address).chain(ports.into_iter().map(RuleKey::Port)).collect()
    }

    /// The sets of the cgroups.
    pub(crate) fn ruled(&self) -> std::collections::HashMap<u64, u32> {
        lock(&self.ruled).iter().filter_map(Result::ok).collect()
    }

    /// Gives cgroups their sets of rules; those that had one, and have none now, lose it.
    pub(crate) fn set_ruled(
        &self,
        before: &std::collections::HashMap<u64, u32>,
        now: &std::collections::HashMap<u64, u32>,
    ) -> Result<(), Error> {
        let mut ruled = lock(&self.ruled);
        for (id, set) in now.iter().filter(|(id, set)| before.get(id) != Some(set)) {
            ruled.insert(id, set, 0).map_err(|source| Error::Map { name: "CGROUP_RULES", source })?;
        }
        before.keys().filter(|id| !now.contains_key(id)).for_each(|id| drop(ruled.remove(id)));
        Ok(())
    }

    /// The ring buffer, for the one task that reads it: from where it was read last, by whomever.
    pub(crate) fn events(&self) -> Result<RingBuf<MapData>, Error> {
        let failed = |source| Error::Map { name: "EVENTS", source };
        let map = MapData::from_pin(self.pin("EVENTS")).map_err(failed)?;
        RingBuf::try_from(Map::RingBuf(map)).map_err(failed)
    }

    /// Where a map is pinned.
    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        self.pins.join(name)
    }

    /// The ring buffer of what goes to name servers and comes from them, for who reads it.
    pub(crate) fn take_names(&self) -> Option<RingBuf<MapData>> {
        lock(&self.names).take()
    }

    /// Says whether names that programs resolve are of interest.
    pub(crate) fn want_names(&self, wanted: bool) -> Result<(), Error> {
        let set = lock(&self.names_wanted).set(0, u32::from(wanted), 0);
        set.map_err(|source| Error::Map { name: "DNS_WANTED", source })
    }

    /// A counter's value.
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        lock(&self.counters).get(&(counter as u32), 0).unwrap_or(0)
    }

    /// TLS sockets that were made in an attached cgroup, or below it, and are open.
    pub(crate) fn sockets_of(&self, cgroup: u64) -> u64 {
        sys::map_get(self.services.fd().as_fd(), &cgroup).map_or(0, |service: Service| service.sockets)
    }

    /// Forgets the marks of threads that have ended in the middle of a `socket(2)`, if there are many.
    fn forget_marks(&self) {
        // Marks have the initial namespace's numbers (include/linux/proc_ns.h).
        const PROC_PID_INIT_INO: u64 = 0xEFFF_FFFC;
        let mut marks = lock(&self.marks);
        let threads = keys(&marks);
        let namespace = std::fs::metadata("/proc/self/ns/pid").map(|metadata| metadata.ino());
        if threads.len() < MANY || !namespace.is_ok_and(|inode| inode == PROC_PID_INIT_INO) {
            return;
        }
        for thread in threads {
            let (tgid, tid) = (thread >> 32, thread & 0xffff_ffff);
            if !std::path::Path::new(&format!("/proc/{tgid}/task/{tid}")).exists() {
                let _absent = marks.remove(&thread);
            }
        }
    }

    /// Forgets users without TLS sockets, and threads without an end, if there are many; once a minute.
    pub(crate) fn forget_old(&self) {
        let mut next = lock(&self.users_at);
        if *next > Instant::now() {
            return;
        }
        *next = Instant::now() + Duration::from_secs(60);
        let mut users = lock(&self.users);
        let all: Vec<(u32, u64)> = users.iter().filter_map(Result::ok).collect();
        if all.len() > MANY {
            all.iter().filter(|(_uid, open)| *open == 0).for_each(|(uid, _open)| drop(users.remove(uid)));
        }
        self.forget_marks();
    }

    /// Publishes the answers of a socket that is to come out of a listener.
    pub(crate) fn publish_accepted(&self, id: u64, connection: &Connection) -> Result<(), Error> {
        const BPF_NOEXIST: u64 = 1;
        let put = lock(&self.connections).insert(id, connection, BPF_NOEXIST);
        put.map_err(|source| Error::Map { name: "CONNECTIONS", source })
    }

    /// Says why a listener can't serve.
    pub(crate) fn publish_listener(&self, id: u64, connection: &Connection) {
        // Full: then the program is told without the reason.
        let _full = lock(&self.connections).insert(id, connection, 0);
        if !self.listening(id) {
            let _absent = lock(&self.connections).remove(&id);
        }
    }

    /// Deletes what an accepted socket has that no program ever had, or has no more.
    pub(crate) fn forget_accepted(&self, id: u64) {
        let _absent = lock(&self.connections).remove(&id);
        let _absent = lock(&self.contexts).remove(&id);
    }

    /// Lets a leg to a listener pass, once.
    pub(crate) fn announce_leg(&self, key: &LegKey, id: u64) -> Result<(), Error> {
        lock(&self.legs).insert(key, id, 0).map_err(|source| Error::Map { name: "LEGS", source })
    }

    /// Takes that back. False if the leg has passed.
    pub(crate) fn withdraw_leg(&self, key: &LegKey) -> bool {
        lock(&self.legs).remove(key).is_ok()
    }

    /// The sockets that listen.
    pub(crate) fn all_listening(&self) -> Vec<Listening> {
        self.listening.iter().filter_map(Result::ok).map(|(_id, record)| record).collect()
    }

    /// Whether a socket still listens.
    pub(crate) fn listening(&self, id: u64) -> bool {
        self.listening.get(&id, 0).is_ok()
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::Missing { name })?;
    T::try_from(map).map_err(|source| Error::Map { name, source })
}

/// Writes all entries, then deletes the others.
fn replace<K, V>(map: &mut HashMap<MapData, K, V>, with: &std::collections::HashMap<K, V>) -> Result<(), MapError>
where
    K: aya::Pod + Eq + std::hash::Hash,
    V: aya::Pod,
{
    for (key, value) in with {
        map.insert(key, value, 0)?;
    }
    for key in keys(map).into_iter().filter(|key| !with.contains_key(key)) {
        let _absent = map.remove(&key);
    }
    Ok(())
}

fn keys<K: aya::Pod, V: aya::Pod>(map: &HashMap<MapData, K, V>) -> Vec<K> {
    map.keys().filter_map(Result::ok).collect()
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
