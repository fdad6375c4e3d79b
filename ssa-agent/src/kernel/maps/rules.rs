//! Maps of the administrator's rules as the hooks look them up: CGROUPS, OWNERS, RULE_ADDRESSES, RULE_PORTS, and
//! DNS_WANTED.

use std::{collections, sync::Mutex};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use ssa_common::{
    cgroup::{Cgroup, UNDECIDED, owner},
    rule::{Action, AddressKey, Groups, PortKey},
};

use super::table::take;
use crate::{kernel::error::Error, sync::lock};

/// Maps of decisions on cgroups (by inode), and of each set's rules, by address and by port.
pub(crate) struct RuleMaps {
    cgroups: Mutex<HashMap<MapData, u64, Cgroup>>,
    owners: Mutex<HashMap<MapData, u64, u64>>,
    /// Number of this agent among the owners.
    owner: u64,
    rule_addresses: Mutex<LpmTrie<MapData, AddressKey, Groups>>,
    rule_ports: Mutex<LpmTrie<MapData, PortKey, Action>>,
    names_wanted: Mutex<Array<MapData, u32>>,
}

impl RuleMaps {
    /// Takes the maps of the agent of this name out of the loaded object.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf, agent: &str) -> Result<Self, Error> {
        Ok(Self {
            cgroups: Mutex::new(take(ebpf, "CGROUPS")?),
            owners: Mutex::new(take(ebpf, "OWNERS")?),
            owner: owner(agent),
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

    /// Decisions on cgroups as the hooks have them, by inode, and under [`ssa_common::cgroup::UNDECIDED`].
    pub(crate) fn cgroups(&self) -> collections::HashMap<u64, Cgroup> {
        lock(&self.cgroups).iter().filter_map(Result::ok).collect()
    }

    /// Tells the hooks by which rules cgroups go that are undecided: those of this set. Errors: the map is full.
    pub(crate) fn set_undecided(&self, rules: u32) -> Result<(), Error> {
        let decision = Cgroup { service: self.owner, rules, flags: 0 };
        lock(&self.cgroups).insert(UNDECIDED, decision, 0).map_err(|source| Error::Map { name: "CGROUPS", source })
    }

    /// Puts the decision on a cgroup in force, in one step. Errors: the map is full.
    pub(crate) fn set_cgroup(&self, id: u64, decision: &Cgroup) -> Result<(), Error> {
        // First, so that others leave it alone.
        if decision.service == 0 {
            self.disown(id);
        } else {
            let owned = lock(&self.owners).insert(id, self.owner, 0);
            owned.map_err(|source| Error::Map { name: "OWNERS", source })?;
        }
        lock(&self.cgroups).insert(id, decision, 0).map_err(|source| Error::Map { name: "CGROUPS", source })
    }

    /// Takes the decision on a cgroup back, though it is still this agent's: it is undecided. Absent is as good.
    pub(crate) fn forget_cgroup(&self, id: u64) {
        let _absent = lock(&self.cgroups).remove(&id);
    }

    /// Takes the decision on a cgroup back, and leaves it to others. Absent is as good.
    pub(crate) fn remove_cgroup(&self, id: u64) {
        self.forget_cgroup(id);
        self.disown(id);
    }

    fn disown(&self, id: u64) {
        let mut owners = lock(&self.owners);
        if owners.get(&id, 0).is_ok_and(|owner| owner == self.owner) {
            let _there = owners.remove(&id);
        }
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
