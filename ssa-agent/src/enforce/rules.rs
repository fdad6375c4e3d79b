//! Rules in force: each cgroup's set of them, as the hooks look it up, and the rule that a connection comes under.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Context as _, Result, anyhow};
use ssa_common::rule::{NO_RULES_BELOW, Traffic};
use tracing::warn;

use crate::{
    kernel::{RuleKey, RuleMaps},
    policy::{File, Mode, Pods, Rule, RuleMatch},
    sync::lock,
    sys::cgroup,
};

/// Rules in force, by cgroup.
pub(crate) struct Rules {
    maps: Arc<RuleMaps>,
    pods: Arc<Pods>,
    /// Mount point of the cgroup file system.
    mount: PathBuf,
    in_force: Mutex<InForce>,
}

struct InForce {
    file: Arc<File>,
    /// Indices of the rules of every cgroup of the machine, by the cgroup's inode.
    cgroups: HashMap<u64, Arc<[usize]>>,
    /// Sets of rules that the hooks have, by the indices of their rules.
    sets: HashMap<Arc<[usize]>, Set>,
    /// Number of each cgroup's set of rules as the hooks have it, by inode, with [`NO_RULES_BELOW`] where that holds.
    ruled: HashMap<u64, u32>,
    last_set: u32,
    last_group: u32,
}

/// A set of rules in the hooks' maps.
struct Set {
    number: u32,
    keys: Vec<RuleKey>,
}

impl Rules {
    /// Puts rules in force, in the place of those that an agent before this one has left. Blocks: looks at every cgroup
    /// of the machine.
    pub(crate) fn new(maps: Arc<RuleMaps>, pods: Arc<Pods>, file: Arc<File>) -> Result<Self> {
        let left = maps.rule_keys();
        let last = |of: fn(&RuleKey) -> u32| left.iter().map(of).max().unwrap_or(0);
        let (last_set, last_group) = (last(RuleKey::set), last(RuleKey::group));
        let in_force =
            InForce { file, cgroups: HashMap::new(), sets: HashMap::new(), ruled: maps.ruled(), last_set, last_group };
        let rules = Self { maps, pods, mount: cgroup::mount()?, in_force: Mutex::new(in_force) };
        rules.reconcile_all(&cgroup::all_below(&rules.mount, |_path| ()), true)?;
        rules.maps.remove_rules(&left);
        rules.warn();
        Ok(rules)
    }

    /// Configuration that the rules are from.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.lock().file)
    }

    /// Puts other rules in force. On an error the last ones stay. Blocks: looks at every cgroup of the machine.
    pub(crate) fn replace(&self, file: Arc<File>) -> Result<()> {
        let found = cgroup::all_below(&self.mount, |_path| ());
        let (before, sets) = {
            let mut in_force = self.lock();
            (std::mem::replace(&mut in_force.file, file), std::mem::take(&mut in_force.sets))
        };
        let done = self.reconcile_all(&found, true);
        let mut in_force = self.lock();
        let gone = if done.is_ok() {
            sets
        } else {
            in_force.file = before;
            std::mem::replace(&mut in_force.sets, sets)
        };
        drop(in_force);
        gone.into_values().for_each(|set| self.maps.remove_rules(&set.keys));
        if done.is_err() {
            self.reconcile_all(&found, true)?;
        }
        if done.is_ok() {
            self.warn();
        }
        done
    }

    /// Logs the rules that let plaintext pass.
    fn warn(&self) {
        let in_force = self.lock();
        for rule in in_force.file.rules().iter().filter(|rule| rule.mode() == Mode::Prefer) {
            warn!(
                rule = rule.name.get_ref(),
                "mode = \"prefer\": plaintext is sent to whoever speaks no TLS, or keeps it away"
            );
        }
    }

    /// Gives each cgroup of the machine its rules; `found` is all of them. `anew` if the rules are others.
    fn reconcile_all(&self, found: &[(u64, PathBuf)], anew: bool) -> Result<()> {
        let mut in_force = self.lock();
        if in_force.file.rules().is_empty() && in_force.ruled.is_empty() {
            return Ok(());
        }
        let file = Arc::clone(&in_force.file);
        // The sockets of peer legs are a service's, but the agent's calls on them are its own.
        let own = cgroup::own().ok();
        let mut ruled = HashMap::new();
        let mut cgroups = HashMap::new();
        let lasting = !anew && file.rules_go_by_path();
        for (id, path) in found.iter().filter(|_| !file.rules().is_empty()) {
            if lasting && let (Some(set), Some(rules)) = (in_force.ruled.get(id), in_force.cgroups.get(id)) {
                ruled.insert(*id, *set);
                cgroups.insert(*id, Arc::clone(rules));
                continue;
            }
            let below = Path::new("/").join(path.strip_prefix(&self.mount).unwrap_or(path));
            let Some(rules) = file.rules_of(&below, &self.pods) else { continue };
            let rules: Arc<[usize]> = if own.as_ref() == Some(path) { Arc::default() } else { rules.into() };
            let set = self.set(&mut in_force, &file, &rules)?;
            let closed = if file.may_rule_below(&below) { 0 } else { NO_RULES_BELOW };
            ruled.insert(*id, set | closed);
            cgroups.insert(*id, rules);
        }
        if !file.rules().is_empty() {
            ruled.insert(0, 0);
        }
        // Before the rules: a name may be resolved as soon as they hold.
        self.maps.want_names(file.rules().iter().any(Rule::wants_names))?;
        self.maps.set_ruled(&in_force.ruled, &ruled)?;
        in_force.ruled = ruled;
        in_force.cgroups = cgroups;
        let used: HashSet<Arc<[usize]>> = in_force.cgroups.values().cloned().collect();
        let unused: Vec<_> = in_force.sets.extract_if(|rules, _set| !used.contains(rules)).collect();
        drop(in_force);
        unused.into_iter().for_each(|(_rules, set)| self.maps.remove_rules(&set.keys));
        Ok(())
    }

    /// Gives new cgroups their rules, and those whose rules go by something that has changed since. An error is logged;
    /// cgroups that get none stay refused.
    pub(crate) fn reconcile(&self, found: &[(u64, PathBuf)]) {
        if let Err(error) = self.reconcile_all(found, false) {
            warn!(error = format!("{error:#}"), "new cgroups can't be given their rules, and are refused");
        }
    }

    /// Number of a set of rules, which the hooks have from now on.
    fn set(&self, in_force: &mut InForce, file: &File, rules: &Arc<[usize]>) -> Result<u32> {
        if rules.is_empty() {
            return Ok(0);
        }
        if let Some(set) = in_force.sets.get(rules) {
            return Ok(set.number);
        }
        in_force.last_set = (in_force.last_set + 1) & !NO_RULES_BELOW;
        let number = in_force.last_set;
        let tables = file.tables(rules, number, &mut in_force.last_group).map_err(|error| anyhow!(error))?;
        let keys =
            self.maps.put_rules(&tables.addresses, &tables.ports).context("there is no room for so many rules")?;
        in_force.sets.insert(Arc::clone(rules), Set { number, keys });
        Ok(number)
    }

    /// Finds the rule by which a socket of this cgroup is a TLS socket ([`Traffic`]).
    pub(crate) fn find(&self, cgroup: u64, kind: Traffic, at: SocketAddr) -> Option<RuleMatch> {
        let in_force = self.lock();
        let rules = in_force.cgroups.get(&cgroup)?;
        let index = in_force.file.ruling(rules, kind, at)?;
        let found = RuleMatch { file: Arc::clone(&in_force.file), index };
        found.rule().mode().is_tls().then_some(found)
    }

    /// Whether a cgroup has its rules, if only none.
    pub(crate) fn knows(&self, cgroup: u64) -> bool {
        let in_force = self.lock();
        in_force.file.rules().is_empty() || in_force.cgroups.contains_key(&cgroup)
    }

    fn lock(&self) -> MutexGuard<'_, InForce> {
        lock(&self.in_force)
    }
}
