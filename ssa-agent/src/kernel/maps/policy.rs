//! Maps of policy as the hooks check it: POLICIES, by the classes of CGROUP_CLASSES and USER_CLASSES.

use std::{collections, sync::Mutex};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use ssa_common::policy::{Policy, PolicyKey};

use super::table::{keys, replace, take};
use crate::{kernel::error::Error, sync::lock};

/// Maps of policy rows by class, and of the classes of cgroups (by inode) and users (by uid).
pub(crate) struct PolicyMaps {
    policies: Mutex<HashMap<MapData, PolicyKey, Policy>>,
    cgroup_classes: Mutex<HashMap<MapData, u64, u32>>,
    user_classes: Mutex<HashMap<MapData, u32, u32>>,
}

impl PolicyMaps {
    /// Takes the maps out of the loaded object.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            policies: Mutex::new(take(ebpf, "POLICIES")?),
            cgroup_classes: Mutex::new(take(ebpf, "CGROUP_CLASSES")?),
            user_classes: Mutex::new(take(ebpf, "USER_CLASSES")?),
        })
    }

    /// Writes a row of policy. Errors: the map is full.
    pub(crate) fn set_policy(&self, key: &PolicyKey, row: &Policy) -> Result<(), Error> {
        lock(&self.policies).insert(key, row, 0).map_err(|source| Error::Map { name: "POLICIES", source })
    }

    /// Deletes a row. Absent is as good.
    pub(crate) fn remove_policy(&self, key: &PolicyKey) {
        let _absent = lock(&self.policies).remove(key);
    }

    /// Sets the classes of cgroups (by inode) and users (by uid); those that had one, and have none now, lose it.
    /// Errors: a map is full.
    pub(crate) fn set_classes(
        &self,
        cgroups: &collections::HashMap<u64, u32>,
        users: &collections::HashMap<u32, u32>,
    ) -> Result<(), Error> {
        replace(&mut lock(&self.cgroup_classes), cgroups)
            .map_err(|source| Error::Map { name: "CGROUP_CLASSES", source })?;
        replace(&mut lock(&self.user_classes), users).map_err(|source| Error::Map { name: "USER_CLASSES", source })
    }

    /// Keys of the rows that are there, also of an agent before this one.
    pub(crate) fn policy_keys(&self) -> Vec<PolicyKey> {
        keys(&lock(&self.policies))
    }
}
