//! Decisions on cgroups: which service each belongs to and which rules are for it, as the hooks look it up, and the rule
//! that a connection comes under.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Context as _, Result, anyhow};
use ssa_common::{
    cgroup::{BELOW_ALIKE, CLOSED, Cgroup, UNDECIDED},
    rule::Traffic,
};
use tracing::warn;

use super::explain::ExplainedService;
use crate::{
    kernel::{RuleKey, RuleMaps},
    policy::{File, Mode, Pods, Rule, RuleMatch},
    services::Services,
    sync::lock,
    sys::{cgroup, on_behalf},
};

/// Decisions on cgroups, and the rules that they go by.
pub(crate) struct Rules {
    maps: Arc<RuleMaps>,
    pods: Arc<Pods>,
    services: Arc<Services>,
    /// Mount point of the cgroup file system.
    mount: PathBuf,
    /// Path of the agent's own cgroup: the sockets of peer legs are a service's, but the agent's calls on them are its
    /// own.
    own: Option<PathBuf>,
    in_force: Mutex<InForce>,
}

struct InForce {
    file: Arc<File>,
    /// Decisions on the cgroups of the machine, and on those that are gone, by inode.
    cgroups: HashMap<u64, Known>,
    /// Inodes of cgroups that are there, by path.
    by_path: HashMap<PathBuf, u64>,
    /// Inodes of cgroups that are gone, the oldest first: their sockets may live on.
    gone: VecDeque<u64>,
    /// Sets of rules that the hooks have, by the indices of their rules.
    sets: HashMap<Arc<[usize]>, Set>,
    /// Set of rules that the hooks have for cgroups that are undecided; none if they were not told yet.
    undecided: Option<u32>,
    last_set: u32,
    last_group: u32,
}

/// A cgroup that was decided on.
struct Known {
    /// Path in the file system; none if it was gone before this agent began.
    path: Option<PathBuf>,
    /// Indices of the rules that are for it; none if they can't be known, as it is gone.
    rules: Option<Arc<[usize]>>,
    decision: Cgroup,
}

/// A set of rules in the hooks' maps.
struct Set {
    number: u32,
    keys: Vec<RuleKey>,
}

/// Whose a cgroup is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// It belongs to a service: the inode of the served cgroup.
    Served(u64),
    /// No service.
    Nobody,
    /// It can't be known, or not yet: it was gone before it was seen, or is of a pod that nobody has told of.
    Unknown,
}

/// Rule for a connection, or none.
pub(crate) enum Ruling {
    /// The rule makes it TLS.
    Tls(RuleMatch),
    /// No rule is for it, or one that leaves it alone.
    Plain,
    /// The rule denies it.
    Denied(RuleMatch),
    /// The cgroup's rules can't be known.
    Unknown,
}

/// Most cgroups that are gone and still decided on. Those beyond are undecided again, and refused where a rule could
/// want what their sockets do.
const GONE_MAX: usize = 16_384;

impl Rules {
    /// Attaches the `cgroups` that are named, those that an agent before this one has left, and those that the
    /// configuration selects; puts rules in force, in the place of those that were left. Blocks: looks at every cgroup
    /// of the machine.
    pub(crate) fn new(
        maps: Arc<RuleMaps>,
        pods: Arc<Pods>,
        services: Arc<Services>,
        file: Arc<File>,
        cgroups: &[PathBuf],
    ) -> Result<Self> {
        let left = maps.rule_keys();
        let last = |of: fn(&RuleKey) -> u32| left.iter().map(of).max().unwrap_or(0);
        let (last_set, last_group) = (last(RuleKey::set), last(RuleKey::group));
        let mut decided = maps.cgroups();
        decided.remove(&UNDECIDED);
        let in_force = InForce {
            file: Arc::clone(&file),
            cgroups: HashMap::new(),
            by_path: HashMap::new(),
            gone: VecDeque::new(),
            sets: HashMap::new(),
            undecided: None,
            last_set,
            last_group,
        };
        let (mount, own) = (cgroup::mount()?, cgroup::own().ok());
        let rules = Self { maps, pods, services, mount, own, in_force: Mutex::new(in_force) };
        let selects = |path: &Path| file.selects(&rules.below(path), &rules.pods);
        rules.services.begin(cgroups, decided.iter().map(|(id, decision)| (*id, *decision)), selects)?;
        {
            let mut in_force = rules.lock();
            for (id, decision) in decided {
                in_force.cgroups.insert(id, Known { path: None, rules: None, decision });
            }
        }
        rules.refresh_from(&cgroup::all_below(&rules.mount, |_path| ()), true)?;
        rules.maps.remove_rules(&left);
        rules.warn();
        Ok(rules)
    }

    /// Configuration that the rules are from.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.lock().file)
    }

    /// Whether the agent is to attach a cgroup by itself ([`File::selects`]).
    pub(crate) fn selects(&self, cgroup: &Path) -> bool {
        let file = self.file();
        file.selects(&self.below(cgroup), &self.pods)
    }

    /// Puts other rules in force. On an error the last ones stay. Blocks: looks at every cgroup of the machine.
    pub(crate) fn replace(&self, file: Arc<File>) -> Result<()> {
        let found = cgroup::all_below(&self.mount, |_path| ());
        let (before, sets) = {
            let mut in_force = self.lock();
            (std::mem::replace(&mut in_force.file, file), std::mem::take(&mut in_force.sets))
        };
        let done = self.refresh_from(&found, true);
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
            self.refresh_from(&found, true)?;
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

    /// Decides on every cgroup of the machine; `found` is all of them. Services that selectors are for are attached. An
    /// error is logged: cgroups that are missing in the hooks' map are undecided.
    pub(crate) fn reconcile(&self, found: &[(u64, PathBuf)]) {
        if let Err(error) = self.refresh_from(found, false) {
            warn!(error = format!("{error:#}"), "the hooks can't be told of all cgroups");
        }
    }

    /// Decides anew on every cgroup, as services have come or gone. Blocks: looks at every cgroup of the machine.
    pub(crate) fn refresh(&self) -> Result<()> {
        self.refresh_from(&cgroup::all_below(&self.mount, |_path| ()), false)
    }

    /// As [`Self::reconcile`]; `anew` if the rules are others.
    fn refresh_from(&self, found: &[(u64, PathBuf)], anew: bool) -> Result<()> {
        let mut in_force = self.lock();
        let file = Arc::clone(&in_force.file);
        // Before the rules: a name may be resolved as soon as they hold.
        self.maps.want_names(file.rules().iter().any(Rule::wants_names))?;
        self.set_undecided(&mut in_force, &file)?;
        let there: HashSet<u64> = found.iter().map(|(id, _path)| *id).collect();
        let mut done = Ok(());
        for (id, path) in found {
            self.services.select(*id, path, true, || file.selects(&self.below(path), &self.pods));
            if let Err(error) = self.decide(&mut in_force, &file, *id, path, anew) {
                done = Err(error);
            }
        }
        let gone: Vec<u64> = in_force.cgroups.keys().filter(|id| !there.contains(id)).copied().collect();
        for id in gone {
            self.note_gone(&mut in_force, id);
            if anew {
                self.decide_gone(&mut in_force, &file, id)?;
            }
        }
        let mut used: HashSet<Arc<[usize]>> =
            in_force.cgroups.values().filter_map(|known| known.rules.clone()).collect();
        used.insert(undecided_rules(&file));
        let unused: Vec<_> = in_force.sets.extract_if(|rules, _set| !used.contains(rules)).collect();
        drop(in_force);
        unused.into_iter().for_each(|(_rules, set)| self.maps.remove_rules(&set.keys));
        done
    }

    /// Tells the hooks what a rule could want of a cgroup that is undecided.
    fn set_undecided(&self, in_force: &mut InForce, file: &File) -> Result<()> {
        let rules = self.set(in_force, file, &undecided_rules(file))?;
        if in_force.undecided != Some(rules) {
            self.maps.set_undecided(rules)?;
            in_force.undecided = Some(rules);
        }
        Ok(())
    }

    /// Decides on a cgroup that is there, and tells the hooks, if anything is new. One of a pod that nobody has told of
    /// stays undecided.
    fn decide(&self, in_force: &mut InForce, file: &File, id: u64, path: &Path, anew: bool) -> Result<()> {
        let below = self.below(path);
        let service = self.services.attached().service_of(path).filter(|_| self.own.as_deref() != Some(path));
        let (service, closed) = service.unwrap_or_default();
        let known = in_force.cgroups.get(&id);
        let same = known.filter(|known| !anew && known.decision.service == service && file.rules_go_by_path());
        let rules: Arc<[usize]> = match same.and_then(|known| known.rules.clone()) {
            Some(rules) => rules,
            None if service == 0 && !file.knows_pod_of(&below, &self.pods) => return Ok(()),
            None if service == 0 => Arc::default(),
            None => match file.rules_of(&below, &self.pods) {
                Some(rules) => rules.into(),
                None => return Ok(()),
            },
        };
        let number = self.set(in_force, file, &rules)?;
        let alike = if self.services.is_named_below(path) {
            false
        } else if service == 0 {
            !file.may_select_below(&below)
        } else {
            !file.may_rule_otherwise_below(&below, &self.pods)
        };
        let flags = if alike { BELOW_ALIKE } else { 0 } | if closed { CLOSED } else { 0 };
        let decision = Cgroup { service, rules: number, flags };
        let told = known_decision(in_force, id) == Some(decision);
        // First, so that it is known here, whatever the map has room for.
        in_force.by_path.insert(path.to_owned(), id);
        in_force.cgroups.insert(id, Known { path: Some(path.to_owned()), rules: Some(rules), decision });
        if !told {
            self.maps.set_cgroup(id, &decision)?;
        }
        Ok(())
    }

    /// Decides anew on a cgroup that is gone, whose sockets may live on: by its path. If that is not known, it goes by
    /// the rules of all, and is refused what they make TLS.
    fn decide_gone(&self, in_force: &mut InForce, file: &File, id: u64) -> Result<()> {
        let Some(known) = in_force.cgroups.get(&id) else { return Ok(()) };
        let (path, mut decision) = (known.path.clone(), known.decision);
        let rules: Option<Arc<[usize]>> = match path.as_deref() {
            _ if decision.service == 0 => Some(Arc::default()),
            Some(path) => file.rules_of(&self.below(path), &self.pods).map(Into::into),
            None => None,
        };
        decision.rules = match &rules {
            Some(rules) => self.set(in_force, file, rules)?,
            None => self.set(in_force, file, &undecided_rules(file))?,
        };
        let told = known_decision(in_force, id) == Some(decision);
        in_force.cgroups.insert(id, Known { path, rules, decision });
        if !told {
            self.maps.set_cgroup(id, &decision)?;
        }
        Ok(())
    }

    /// Notes that a cgroup is gone. It stays decided, for its sockets, until many others are gone.
    fn note_gone(&self, in_force: &mut InForce, id: u64) {
        let Some(known) = in_force.cgroups.get(&id) else { return };
        let path = known.path.clone();
        match path {
            Some(path) if in_force.by_path.get(&path) == Some(&id) => drop(in_force.by_path.remove(&path)),
            // Noted before.
            Some(_) => return,
            None if in_force.gone.contains(&id) => return,
            None => {}
        }
        in_force.gone.push_back(id);
        if in_force.gone.len() > GONE_MAX
            && let Some(oldest) = in_force.gone.pop_front()
        {
            in_force.cgroups.remove(&oldest);
            self.maps.remove_cgroup(oldest);
        }
    }

    /// Looks up whose a cgroup is; none if it is undecided.
    pub(crate) fn standing(&self, cgroup: u64) -> Option<Standing> {
        known_decision(&self.lock(), cgroup).map(standing)
    }

    /// Decides on one cgroup that was made, and on those above it: whose it is, and whether a service was attached by
    /// that. Blocks: selectors may read files.
    pub(crate) fn settle(&self, cgroup: u64) -> (Standing, bool) {
        if let Some(decision) = known_decision(&self.lock(), cgroup) {
            return (standing(decision), false);
        }
        let Ok(path) = on_behalf::cgroup_path(cgroup) else { return (Standing::Unknown, false) };
        let attached = self.made(&path);
        (known_decision(&self.lock(), cgroup).map_or(Standing::Unknown, standing), attached)
    }

    /// Decides on a cgroup that was made, by its path, and on those above it; true if a service was attached.
    pub(crate) fn made(&self, path: &Path) -> bool {
        let mut attached = false;
        let mut in_force = self.lock();
        let file = Arc::clone(&in_force.file);
        let mut lineage: Vec<&Path> = path.ancestors().take_while(|above| above.starts_with(&self.mount)).collect();
        lineage.reverse();
        for path in lineage {
            let Ok(id) = fs::metadata(path).map(|metadata| metadata.ino()) else { break };
            if in_force.cgroups.get(&id).is_some_and(|known| known.path.is_some()) {
                continue;
            }
            attached |= self.services.select(id, path, false, || file.selects(&self.below(path), &self.pods));
            if let Err(error) = self.decide(&mut in_force, &file, id, path, false) {
                warn!(error = format!("{error:#}"), cgroup = %path.display(), "the hooks can't be told of a cgroup");
            }
        }
        attached
    }

    /// Notes that the cgroup of this path was removed.
    pub(crate) fn removed(&self, path: &Path) {
        let mut in_force = self.lock();
        if let Some(id) = in_force.by_path.get(path).copied()
            && !fs::metadata(path).is_ok_and(|metadata| metadata.ino() == id)
        {
            self.note_gone(&mut in_force, id);
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
        in_force.last_set = in_force.last_set.wrapping_add(1).max(1);
        let number = in_force.last_set;
        let tables = file.tables(rules, number, &mut in_force.last_group).map_err(|error| anyhow!(error))?;
        let keys =
            self.maps.put_rules(&tables.addresses, &tables.ports).context("there is no room for so many rules")?;
        in_force.sets.insert(Arc::clone(rules), Set { number, keys });
        Ok(number)
    }

    /// Finds the rule for a socket of this cgroup ([`Traffic`]) that sets no options of TLS.
    pub(crate) fn ruling(&self, cgroup: u64, kind: Traffic, at: SocketAddr) -> Ruling {
        let in_force = self.lock();
        let Some(rules) = in_force.cgroups.get(&cgroup).and_then(|known| known.rules.as_ref()) else {
            return Ruling::Unknown;
        };
        let Some(index) = in_force.file.ruling(rules, kind, at) else { return Ruling::Plain };
        let found = RuleMatch { file: Arc::clone(&in_force.file), index };
        match found.rule().mode() {
            Mode::Require | Mode::Prefer => Ruling::Tls(found),
            Mode::Deny => Ruling::Denied(found),
            Mode::Plain => Ruling::Plain,
        }
    }

    /// Inode and path in the file system of a cgroup, by its path below the mount.
    pub(super) fn cgroup_at(&self, below: &Path) -> Result<(u64, PathBuf)> {
        let path = self.mount.join(below.strip_prefix("/").unwrap_or(below));
        let metadata = fs::metadata(&path).with_context(|| format!("cgroup {}", path.display()))?;
        Ok((metadata.ino(), path))
    }

    /// Describes an attached cgroup; none if it is not attached any more.
    pub(super) fn attached(&self, service: u64) -> Option<ExplainedService> {
        let attached = self.services.attached();
        let (path, (since, by)) = (attached.path(service)?, attached.since(service)?);
        let closed = attached.service_of(&path).is_some_and(|(_id, closed)| closed);
        Some(ExplainedService::new(&path, by, since, closed))
    }

    /// Reason why nobody serves a cgroup.
    pub(super) fn why_nobody(&self, path: &Path) -> String {
        if self.own.as_deref() == Some(path) {
            return "the agent itself is in this cgroup".to_owned();
        }
        match self.services.why_not(path) {
            Some(why) => why,
            None if self.lock().file.names_services() => {
                "no [[service]] and no `service` of a rule selects its cgroup or one above it, and none was attached"
                    .to_owned()
            }
            None => "neither its cgroup nor one above it is attached".to_owned(),
        }
    }

    /// Whether a rule makes something TLS for a service, or a cgroup below it.
    pub(crate) fn depends(&self, service: &Path) -> bool {
        let in_force = self.lock();
        let tls = |index: &usize| in_force.file.rules()[*index].mode().is_tls();
        let known =
            in_force.cgroups.values().filter(|known| known.path.as_ref().is_some_and(|p| p.starts_with(service)));
        known.filter_map(|known| known.rules.as_ref()).any(|rules| rules.iter().any(tls))
    }

    /// Whether a rule makes something TLS for a service that there is, or that may begin.
    pub(crate) fn depend(&self) -> bool {
        let in_force = self.lock();
        let tls = |index: &usize| in_force.file.rules()[*index].mode().is_tls();
        let there = |known: &&Known| known.path.as_ref().is_some_and(|path| path.exists());
        let now = || {
            in_force
                .cgroups
                .values()
                .filter(there)
                .filter_map(|known| known.rules.as_ref())
                .any(|rules| rules.iter().any(tls))
        };
        (0..in_force.file.rules().len()).any(|index| tls(&index)) && (in_force.file.names_services() || now())
    }

    fn below(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(&self.mount).unwrap_or(path))
    }

    fn lock(&self) -> MutexGuard<'_, InForce> {
        lock(&self.in_force)
    }
}

/// Rules that could want something of a cgroup that is undecided: all but those that leave traffic alone.
fn undecided_rules(file: &File) -> Arc<[usize]> {
    (0..file.rules().len()).filter(|index| file.rules()[*index].mode() != Mode::Plain).collect()
}

fn known_decision(in_force: &InForce, cgroup: u64) -> Option<Cgroup> {
    in_force.cgroups.get(&cgroup).map(|known| known.decision)
}

fn standing(decision: Cgroup) -> Standing {
    if decision.service == 0 { Standing::Nobody } else { Standing::Served(decision.service) }
}
