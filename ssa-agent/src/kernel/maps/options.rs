//! Maps of applications' settings: CONTEXTS, BLOBS, PATHS, and the names of cipher suites, CIPHERS and CIPHER_NAMES.

use std::{collections::HashSet, sync::Mutex};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use ssa_common::{
    cipher::{self, CipherName},
    context::{Blob, BlobKey, Context, KeptPath},
};

use super::table::{keys, take};
use crate::{kernel::error::Error, sync::lock};

/// Maps of settings by context id, of values that wait to be taken, of paths that are kept for the next agent, and of
/// cipher suites by name.
pub(crate) struct OptionMaps {
    contexts: Mutex<HashMap<MapData, u64, Context>>,
    blobs: Mutex<HashMap<MapData, BlobKey, Blob>>,
    paths: Mutex<HashMap<MapData, BlobKey, KeptPath>>,
    ciphers: Mutex<HashMap<MapData, u64, u32>>,
    cipher_names: Mutex<Array<MapData, CipherName>>,
}

impl OptionMaps {
    /// Takes the maps out of the loaded object.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            contexts: Mutex::new(take(ebpf, "CONTEXTS")?),
            blobs: Mutex::new(take(ebpf, "BLOBS")?),
            paths: Mutex::new(take(ebpf, "PATHS")?),
            ciphers: Mutex::new(take(ebpf, "CIPHERS")?),
            cipher_names: Mutex::new(take(ebpf, "CIPHER_NAMES")?),
        })
    }

    /// Settings of a context; none if no socket uses it any more.
    pub(crate) fn context(&self, id: u64) -> Option<Context> {
        lock(&self.contexts).get(&id, 0).ok()
    }

    /// Deletes the settings of an accepted socket that no application ever had. Absent is as good.
    pub(crate) fn forget_context(&self, id: u64) {
        let _absent = lock(&self.contexts).remove(&id);
    }

    /// Takes an option's value out of BLOBS; none if it is not there.
    pub(crate) fn take_blob(&self, key: &BlobKey) -> Option<Vec<u8>> {
        let mut blobs = lock(&self.blobs);
        let blob = blobs.get(key, 0).ok()?;
        // Only the agent deletes entries that were announced, so it is there.
        let _deleted = blobs.remove(key);
        blob.bytes.get(..blob.len as usize).map(<[u8]>::to_vec)
    }

    /// Keeps a path for the next agent. If the map is full, or the context is gone, it is not kept: the application
    /// will have to set it again.
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

    /// Lists the paths that an agent before this one has kept.
    pub(crate) fn kept_paths(&self) -> Vec<(BlobKey, KeptPath)> {
        lock(&self.paths).iter().filter_map(Result::ok).collect()
    }

    /// Gives a cipher suite its number: by OpenSSL's name, and by IANA's, if it has one. Errors: a map can't be
    /// written.
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

    /// OpenSSL's name of a cipher suite by its number; empty if it has none.
    pub(crate) fn cipher_name(&self, number: u8) -> String {
        let name = lock(&self.cipher_names).get(&u32::from(number), 0);
        name.ok()
            .and_then(|name| name.bytes.get(..name.len as usize).map(<[u8]>::to_vec))
            .map_or_else(String::new, |name| String::from_utf8_lossy(&name).into_owned())
    }

    /// Forgets the names of all cipher suites; returns the ids of the contexts that have lists by their numbers.
    pub(crate) fn forget_ciphers(&self) -> HashSet<u64> {
        let mut ciphers = lock(&self.ciphers);
        keys(&ciphers).iter().for_each(|hash| drop(ciphers.remove(hash)));
        let none = CipherName { bytes: [0; cipher::NAME_BYTES], len: 0, reserved: 0 };
        let mut names = lock(&self.cipher_names);
        (0..names.len()).for_each(|number| drop(names.set(number, none, 0)));
        lock(&self.contexts).keys().filter_map(Result::ok).collect()
    }
}
