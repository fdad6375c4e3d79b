//! Maps of sockets that listen, and of the legs to them that may pass: LISTENING, AGENT_LISTENERS, LEGS.

use std::{
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Mutex,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, SkStorage},
};
use ssa_common::{event::Listening, steer::LegKey};

use super::table::take;
use crate::{kernel::error::Error, sync::lock};

/// Maps of TLS sockets that listen, by id; of the agent's own listeners, which hooks leave alone; of announced legs.
pub(crate) struct ListenerMaps {
    listening: HashMap<MapData, u64, Listening>,
    listeners: Mutex<SkStorage<MapData, u32>>,
    legs: Mutex<HashMap<MapData, LegKey, u64>>,
    /// Folder of the pins.
    pins: PathBuf,
}

impl ListenerMaps {
    /// Takes the maps out of the loaded object.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf, pins: &Path) -> Result<Self, Error> {
        Ok(Self {
            listening: take(ebpf, "LISTENING")?,
            listeners: Mutex::new(take(ebpf, "AGENT_LISTENERS")?),
            legs: Mutex::new(take(ebpf, "LEGS")?),
            pins: pins.to_owned(),
        })
    }

    /// Marks a socket as one of the agent's listeners.
    pub(crate) fn mark_listener(&self, listener: &impl AsRawFd) -> Result<(), Error> {
        lock(&self.listeners).insert(listener, 1, 0).map_err(|source| Error::Map { name: "AGENT_LISTENERS", source })
    }

    /// Lets a leg to a listener pass, once; it becomes the socket `id`. Errors: the map LEGS is full.
    pub(crate) fn announce_leg(&self, key: &LegKey, id: u64) -> Result<(), Error> {
        lock(&self.legs).insert(key, id, 0).map_err(|source| Error::Map { name: "LEGS", source })
    }

    /// Takes an announcement back. False if the leg has passed.
    pub(crate) fn withdraw_leg(&self, key: &LegKey) -> bool {
        lock(&self.legs).remove(key).is_ok()
    }

    /// Lists the TLS sockets that listen.
    pub(crate) fn all_listening(&self) -> Vec<Listening> {
        self.listening.iter().filter_map(Result::ok).map(|(_id, record)| record).collect()
    }

    /// Whether a socket still listens.
    pub(crate) fn listening(&self, id: u64) -> bool {
        self.listening.get(&id, 0).is_ok()
    }

    /// Path at which LEGS is pinned, for the steering program, which shares it.
    pub(crate) fn legs_pin(&self) -> PathBuf {
        self.pins.join("LEGS")
    }
}
