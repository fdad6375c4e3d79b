//! Maps of counts and ids: IDS, COUNTERS, SERVICES, USERS, SOCKET_CALLS, and the ring buffers EVENTS
//! and PARKED.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, Queue, RingBuf},
};
use ssa_common::limits::Counter;

use super::table::{keys, take};
use crate::{kernel::error::Error, sync::lock};

/// Maps of the pool of socket ids, counters of the hooks, open sockets by service and user, marks of threads, events,
/// and parked SYNs.
pub(crate) struct SocketMaps {
    ids: Mutex<Queue<MapData, u64>>,
    counters: Mutex<Array<MapData, u64>>,
    services: Mutex<HashMap<MapData, u64, u64>>,
    users: Mutex<HashMap<MapData, u32, u64>>,
    marks: Mutex<HashMap<MapData, u64, u32>>,
    /// Time at which to look at USERS and SOCKET_CALLS next.
    users_at: Mutex<Instant>,
    /// Folder of the pins.
    pins: PathBuf,
}

impl SocketMaps {
    /// Takes the maps out of the loaded object.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf, pins: &Path) -> Result<Self, Error> {
        Ok(Self {
            ids: Mutex::new(take(ebpf, "IDS")?),
            counters: Mutex::new(take(ebpf, "COUNTERS")?),
            services: Mutex::new(take(ebpf, "SERVICES")?),
            users: Mutex::new(take(ebpf, "USERS")?),
            marks: Mutex::new(take(ebpf, "SOCKET_CALLS")?),
            users_at: Mutex::new(Instant::now()),
            pins: pins.to_owned(),
        })
    }

    /// Adds an id to the pool; false if it is full.
    pub(crate) fn offer_id(&self, id: u64) -> bool {
        lock(&self.ids).push(id, 0).is_ok()
    }

    /// Value of a counter; zero if it can't be read.
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        lock(&self.counters).get(&(counter as u32), 0).unwrap_or(0)
    }

    /// Number of open TLS sockets of a service; those that came out of a listener are not counted.
    pub(crate) fn sockets_of(&self, service: u64) -> u64 {
        lock(&self.services).get(&service, 0).unwrap_or(0)
    }

    /// Forgets users and services without TLS sockets, and marks of threads that have ended, if there are many; once a minute,
    /// however often it is called.
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
        let mut services = lock(&self.services);
        let all: Vec<(u64, u64)> = services.iter().filter_map(Result::ok).collect();
        if all.len() > MANY {
            all.iter().filter(|(_id, open)| *open == 0).for_each(|(id, _open)| drop(services.remove(id)));
        }
        drop(services);
        self.forget_marks();
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
            if !Path::new(&format!("/proc/{tgid}/task/{tid}")).exists() {
                let _absent = marks.remove(&thread);
            }
        }
    }

    /// Opens the ring buffer EVENTS, for the one task that reads it: from where it was read last, by whomever.
    pub(crate) fn events(&self) -> Result<RingBuf<MapData>, Error> {
        self.ring("EVENTS")
    }

    /// Opens the ring buffer PARKED, as [`Self::events`].
    pub(crate) fn parked(&self) -> Result<RingBuf<MapData>, Error> {
        self.ring("PARKED")
    }

    fn ring(&self, name: &'static str) -> Result<RingBuf<MapData>, Error> {
        let failed = |source| Error::Map { name, source };
        let map = MapData::from_pin(self.pins.join(name)).map_err(failed)?;
        RingBuf::try_from(Map::RingBuf(map)).map_err(failed)
    }
}

/// Number of entries that may stay although nobody needs them.
const MANY: usize = 1000;
