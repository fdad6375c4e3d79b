//! The hooks' maps, as the agent reads and writes them.

use std::{
    os::fd::AsRawFd,
    sync::{Mutex, MutexGuard},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, Queue, RingBuf, SkStorage},
};
use ssa_common::{
    connection::Connection,
    context::{Blob, BlobKey, Context},
    limits::Counter,
};

use super::Error;

/// Maps that any task may use. Each call is one bpf(2), so the locks are held for about a
/// microsecond and never across an await.
pub(crate) struct Maps {
    blobs: Mutex<HashMap<MapData, BlobKey, Blob>>,
    connections: Mutex<HashMap<MapData, u64, Connection>>,
    contexts: HashMap<MapData, u64, Context>,
    counters: Array<MapData, u64>,
    ids: Mutex<Queue<MapData, u64>>,
    listeners: Mutex<SkStorage<MapData, u32>>,
    events: Mutex<Option<RingBuf<MapData>>>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            blobs: Mutex::new(take(ebpf, "BLOBS")?),
            connections: Mutex::new(take(ebpf, "CONNECTIONS")?),
            contexts: take(ebpf, "CONTEXTS")?,
            counters: take(ebpf, "COUNTERS")?,
            ids: Mutex::new(take(ebpf, "IDS")?),
            listeners: Mutex::new(take(ebpf, "LISTENERS")?),
            events: Mutex::new(Some(take(ebpf, "EVENTS")?)),
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
        self.contexts.get(&id, 0).ok()
    }

    /// Takes an option's value out of its map.
    pub(crate) fn take_blob(&self, key: &BlobKey) -> Option<Vec<u8>> {
        let mut blobs = lock(&self.blobs);
        let blob = blobs.get(key, 0).ok()?;
        // Only the agent deletes entries that were announced, so it is there.
        let _deleted = blobs.remove(key);
        blob.bytes.get(..blob.len as usize).map(<[u8]>::to_vec)
    }

    /// Adds an id to the pool; false if it is full.
    pub(crate) fn offer_id(&self, id: u64) -> bool {
        lock(&self.ids).push(id, 0).is_ok()
    }

    /// Marks a socket as one of the agent's listeners.
    pub(crate) fn mark_listener(&self, listener: &impl AsRawFd) -> Result<(), Error> {
        lock(&self.listeners).insert(listener, 1, 0).map_err(|source| Error::Map { name: "LISTENERS", source })
    }

    /// The ring buffer, for the one task that reads it.
    pub(crate) fn take_events(&self) -> Option<RingBuf<MapData>> {
        lock(&self.events).take()
    }

    /// A counter's value.
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.counters.get(&(counter as u32), 0).unwrap_or(0)
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::Missing { name })?;
    T::try_from(map).map_err(|source| Error::Map { name, source })
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
