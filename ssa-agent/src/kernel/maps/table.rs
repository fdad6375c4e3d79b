//! Functions that the maps of every domain share.

use std::{collections, hash::Hash};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError},
};

use crate::kernel::error::Error;

/// Takes a map out of the loaded object.
pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::Missing { name })?;
    T::try_from(map).map_err(|source| Error::Map { name, source })
}

/// Writes all entries, then deletes the others.
pub(super) fn replace<K, V>(map: &mut HashMap<MapData, K, V>, with: &collections::HashMap<K, V>) -> Result<(), MapError>
where
    K: Pod + Eq + Hash,
    V: Pod,
{
    for (key, value) in with {
        map.insert(key, value, 0)?;
    }
    for key in keys(map).into_iter().filter(|key| !with.contains_key(key)) {
        let _absent = map.remove(&key);
    }
    Ok(())
}

/// Keys of a map. One that changes meanwhile may have some twice, or not at all.
pub(super) fn keys<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>) -> Vec<K> {
    map.keys().filter_map(Result::ok).collect()
}
