//! Maps of the administrator's rules as the hooks look them up: CGROUP_RULES, RULE_ADDRESSES, RULE_PORTS, and
//! DNS_WANTED.

use std::{collections, sync::Mutex};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use ssa_common::rule::{Action, AddressKey, Groups, PortKey};

use super::table::take;
use crate::{kernel::error::Error, sync::lock};

/// Maps of sets of rules by cgroup (inode), and of each set's rules, by address and by port.
pub(crate) struct RuleMaps {
    ruled: Mutex<HashMap<MapData, u64, u32>>,
    rule_addresses: Mutex<LpmTrie<MapData, AddressKey, Groups>>,
    rule_ports: Mutex<LpmTrie<MapData, PortKey, Action>>,
    names_wanted: Mutex<Array<MapData, u32>>,
}

impl RuleMaps {
    /// Takes the maps out of the loaded object.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            ruled: Mutex::new(take(ebpf, "CGROUP_RULES")?),
            rule_addresses: Mutex::new(take(ebpf, "RULE_ADDRESSES")?),
            rule_ports: Mutex::new(take(ebpf, "RULE_PORTS")?),
            names_wanted: Mutex::new(take(ebpf, "DNS_WANTED")?),
        })
    }

    /// Writes the entries of a set of rules, which is not in force yet: of both tries, each with the length of its
    /// prefix in bits. Returns their keys. On an error nothing of it stays.
    pub(crate) fn put_rules(
        &self,
        addresses: &[(u32, AddressKey, Groups)],
        ports: &[(u32, PortKey, Action)],
    ) -> Result<Vec<RuleKey>, Error> {
        let mut keys = Vec::new();
        let done = self.insert_rules(addresses, ports, &mut keys);
        if done.is_err() {
            self.remove_rules(&keys);
        }
        done.map(|()| keys)
    }

    fn insert_rules(
        &self,
        addresses: &[(u32, AddressKey, Groups)],
        ports: &[(u32, PortKey, Action)],
        keys: &mut Vec<RuleKey>,
    ) -> Result<(), Error> {
        let (mut rule_addresses, mut rule_ports) = (lock(&self.rule_addresses), lock(&self.rule_ports));
        for (bits, port, action) in ports {
            let key = Key::new(*bits, *port);
            rule_ports.insert(&key, *action, 0).map_err(|source| Error::Map { name: "RULE_PORTS", source })?;
            keys.push(RuleKey::Port(key));
        }
        for (bits, address, groups) in addresses {
            let key = Key::new(*bits, *address);
            rule_addresses.insert(&key, *groups, 0).map_err(|source| Error::Map { name: "RULE_ADDRESSES", source })?;
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

    /// Keys of the entries of all sets.
    pub(crate) fn rule_keys(&self) -> Vec<RuleKey> {
        let addresses: Vec<_> = lock(&self.rule_addresses).keys().filter_map(Result::ok).collect();
        let ports: Vec<_> = lock(&self.rule_ports).keys().filter_map(Result::ok).collect();
        addresses.into_iter().map(RuleKey::Address).chain(ports.into_iter().map(RuleKey::Port)).collect()
    }

    /// Numbers of the cgroups' sets of rules, by inode.
    pub(crate) fn ruled(&self) -> collections::HashMap<u64, u32> {
        lock(&self.ruled).iter().filter_map(Result::ok).collect()
    }

    /// Gives cgroups their sets of rules; those that had one, and have none now, lose it. `before` is what the map has.
    /// Errors: the map is full.
    pub(crate) fn set_ruled(
        &self,
        before: &collections::HashMap<u64, u32>,
        now: &collections::HashMap<u64, u32>,
    ) -> Result<(), Error> {
        let mut ruled = lock(&self.ruled);
        for (id, set) in now.iter().filter(|(id, set)| before.get(id) != Some(set)) {
            ruled.insert(id, set, 0).map_err(|source| Error::Map { name: "CGROUP_RULES", source })?;
        }
        before.keys().filter(|id| !now.contains_key(id)).for_each(|id| drop(ruled.remove(id)));
        Ok(())
    }

    /// Sets whether hooks note DNS messages of applications (DNS_WANTED).
    pub(crate) fn want_names(&self, wanted: bool) -> Result<(), Error> {
        let set = lock(&self.names_wanted).set(0, u32::from(wanted), 0);
        set.map_err(|source| Error::Map { name: "DNS_WANTED", source })
    }
}

/// Key of an entry of the hooks' rules.
pub(crate) enum RuleKey {
    /// Key in RULE_ADDRESSES.
    Address(Key<AddressKey>),
    /// Key in RULE_PORTS.
    Port(Key<PortKey>),
}

impl RuleKey {
    /// Number of its set; zero if the key does not have it.
    pub(crate) fn set(&self) -> u32 {
        match self {
            Self::Address(key) => key.data().set,
            Self::Port(_) => 0,
        }
    }

    /// Number of its group; zero if the key does not have it.
    pub(crate) fn group(&self) -> u32 {
        match self {
            Self::Address(_) => 0,
            Self::Port(key) => key.data().group,
        }
    }
}
