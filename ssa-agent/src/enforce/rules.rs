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
    in_force: Mutex<InForce>,
}

struct InForce {
    file: Arc<File>,
    /// Path of the agent's own cgroup: the sockets of peer legs are a service's, but the agent's calls on them are its
    /// own.
    own: Option<PathBuf>,
    /// Decisions on the cgroups of the machine, and on those that are gone, by inode.
    cgroups: HashMap<u64, Known>,
    /// Inodes of cgroups that are there, by path.
    by_path: HashMap<PathBuf, u64>,
    /// Inodes of services' cgroups that are gone, the oldest first: their sockets may live on.
    gone: VecDeque<u64>,
    /// As `gone`, of cgroups that were nobody's.
    gone_strangers: VecDeque<u64>,
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
    /// Mark of a cgroup that is gone: it waits in `gone` or `gone_strangers`.
    gone: bool,
}

impl Known {
    /// Whether its path is still this very cgroup's.
    fn is_there(&self, id: u64) -> bool {
        self.path.as_ref().is_some_and(|path| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == id))
    }
}

/// Decision that is to be put in force.
struct Planned {
    id: u64,
    path: Option<PathBuf>,
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

/// Most cgroups of services that are gone and still decided on, and most of strangers. Those beyond are undecided
/// again, and refused where a rule could want what their sockets do.
const GONE_MAX: usize = 16_384;
const GONE_STRANGERS_MAX: usize = 4096;

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
            own: None,
            cgroups: HashMap::new(),
            by_path: HashMap::new(),
            gone: VecDeque::new(),
            gone_strangers: VecDeque::new(),
            sets: HashMap::new(),
            undecided: None,
            last_set,
            last_group,
        };
        let rules = Self { maps, pods, services, mount: cgroup::mount()?, in_force: Mutex::new(in_force) };
        let selects = |path: &Path| file.selects(&rules.below(path), &rules.pods);
        rules.services.begin(cgroups, decided.iter().map(|(id, decision)| (*id, *decision)), selects)?;
        {
            let mut in_force = rules.lock();
            for (id, decision) in decided {
                in_force.cgroups.insert(id, Known { path: None, rules: None, decision, gone: false });
            }
        }
        rules.refresh_from(&cgroup::all_below(&rules.mount, |_path| ()), Some(file))?;
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

    /// Puts other rules in force. On an error the last ones stay, and nothing has changed. Blocks: looks at every cgroup
    /// of the machine.
    pub(crate) fn replace(&self, file: Arc<File>) -> Result<()> {
        self.refresh_from(&cgroup::all_below(&self.mount, |_path| ()), Some(file))?;
        self.warn();
        Ok(())
    }

    /// Writes all decisions again, in the place of those that another agent has written meanwhile. Blocks.
    pub(crate) fn put_in_force_again(&self) -> Result<()> {
        let left = self.maps.rule_keys();
        let last = |of: fn(&RuleKey) -> u32| left.iter().map(of).max().unwrap_or(0);
        let file = {
            let mut in_force = self.lock();
            in_force.last_set = in_force.last_set.max(last(RuleKey::set));
            in_force.last_group = in_force.last_group.max(last(RuleKey::group));
            in_force.undecided = None;
            for known in in_force.cgroups.values_mut() {
                // As if the hooks had none.
                known.decision.flags |= NOT_TOLD;
            }
            Arc::clone(&in_force.file)
        };
        self.replace(file)?;
        self.maps.remove_rules(&left);
        Ok(())
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
        if let Err(error) = self.refresh_from(found, None) {
            warn!(error = format!("{error:#}"), "the hooks can't be told of all cgroups");
        }
    }

    /// Decides anew on every cgroup, as services have come or gone. Blocks: looks at every cgroup of the machine.
    pub(crate) fn refresh(&self) -> Result<()> {
        self.refresh_from(&cgroup::all_below(&self.mount, |_path| ()), None)
    }

    /// As [`Self::reconcile`], by another configuration if one is given. All sets of rules are made before anything is
    /// switched to them, and removed after; on an error nothing has changed.
    fn refresh_from(&self, found: &[(u64, PathBuf)], file: Option<Arc<File>>) -> Result<()> {
        let mut guard = self.lock();
        let in_force = &mut *guard;
        // It may have been moved.
        if let Ok(own) = cgroup::own() {
            in_force.own = Some(own);
        }
        let anew = file.is_some();
        let file = file.unwrap_or_else(|| Arc::clone(&in_force.file));
        for (id, path) in found {
            self.services.select(*id, path, true, || file.selects(&self.below(path), &self.pods));
        }
        let before = if anew { std::mem::take(&mut in_force.sets) } else { HashMap::new() };
        let planned = self.plan(in_force, &file, found, anew);
        let (undecided, planned) = match planned {
            Ok(planned) => planned,
            Err(error) if anew => {
                let made = std::mem::replace(&mut in_force.sets, before);
                made.into_values().for_each(|set| self.maps.remove_rules(&set.keys));
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        // Before the rules: a name may be resolved as soon as they hold.
        self.maps.want_names(file.rules().iter().any(Rule::wants_names))?;
        in_force.file = file;
        let mut done = Ok(());
        if in_force.undecided != Some(undecided) {
            self.maps.set_undecided(undecided)?;
            in_force.undecided = Some(undecided);
        }
        for one in planned {
            // Only one that has no entry yet finds no room: it stays undecided.
            if let Err(error) = self.put(in_force, one) {
                done = Err(error);
            }
        }
        let there: HashSet<u64> = found.iter().map(|(id, _path)| *id).collect();
        // One that is not on the list may have been made since.
        let is_gone = |(id, known): &(&u64, &Known)| !there.contains(id) && !known.gone && !known.is_there(**id);
        let gone: Vec<u64> = in_force.cgroups.iter().filter(is_gone).map(|(id, _known)| *id).collect();
        gone.into_iter().for_each(|id| self.note_gone(in_force, id));
        let mut used: HashSet<Arc<[usize]>> =
            in_force.cgroups.values().filter_map(|known| known.rules.clone()).collect();
        used.insert(undecided_rules(&in_force.file));
        let unused: Vec<_> = in_force.sets.extract_if(|rules, _set| !used.contains(rules)).collect();
        drop(guard);
        unused.into_iter().for_each(|(_rules, set)| self.maps.remove_rules(&set.keys));
        before.into_values().for_each(|set| self.maps.remove_rules(&set.keys));
        done
    }

    /// Makes the sets of rules that all cgroups are to have: the number of that for undecided ones, and the decisions.
    fn plan(
        &self,
        in_force: &mut InForce,
        file: &File,
        found: &[(u64, PathBuf)],
        anew: bool,
    ) -> Result<(u32, Vec<Planned>)> {
        let undecided = self.set(in_force, file, &undecided_rules(file))?;
        let mut planned = Vec::new();
        for (id, path) in found {
            planned.extend(self.decide(in_force, file, *id, path, anew)?);
        }
        if anew {
            let there: HashSet<u64> = found.iter().map(|(id, _path)| *id).collect();
            let gone: Vec<u64> = in_force.cgroups.keys().filter(|id| !there.contains(id)).copied().collect();
            for id in gone {
                planned.extend(self.decide_gone(in_force, file, id, undecided)?);
            }
        }
        Ok((undecided, planned))
    }

    /// Puts a decision in force, if the hooks do not have it. An error is that there is no room for one more.
    fn put(&self, in_force: &mut InForce, planned: Planned) -> Result<()> {
        let Planned { id, path, rules, decision } = planned;
        let told = known_decision(in_force, id) == Some(decision);
        let gone = in_force.cgroups.get(&id).is_some_and(|known| known.gone);
        let written = if told { Ok(()) } else { self.maps.set_cgroup(id, &decision) };
        if let Some(path) = path.clone().filter(|_| !gone)
            && let Some(other) = in_force.by_path.insert(path, id)
            && other != id
        {
            // It was removed, and another one made in its place.
            self.note_gone(in_force, other);
        }
        // Known here, whatever the map has room for.
        let flags = decision.flags | if written.is_err() { NOT_TOLD } else { 0 };
        in_force.cgroups.insert(id, Known { path, rules, decision: Cgroup { flags, ..decision }, gone });
        Ok(written?)
    }

    /// Takes back the decision on a cgroup: it is undecided. What it belongs to is still not another agent's.
    fn forget(&self, in_force: &mut InForce, id: u64) {
        if in_force.cgroups.remove(&id).is_some() {
            self.maps.forget_cgroup(id);
        }
    }

    /// Decides on a cgroup that is there. None if that can't be told, as it is of a pod that nobody has told of: it is
    /// undecided, unless it was decided on before by the same configuration.
    fn decide(&self, in_force: &mut InForce, file: &File, id: u64, path: &Path, anew: bool) -> Result<Option<Planned>> {
        let below = self.below(path);
        let service = self.services.attached().service_of(path).filter(|_| in_force.own.as_deref() != Some(path));
        let (service, closed) = service.unwrap_or_default();
        let known = in_force.cgroups.get(&id);
        let same = known.filter(|known| !anew && known.decision.service == service && file.rules_go_by_path());
        let rules: Option<Arc<[usize]>> = match same.and_then(|known| known.rules.clone()) {
            Some(rules) => Some(rules),
            None if service == 0 && !file.knows_pod_of(&below, &self.pods) => None,
            None if service == 0 => Some(Arc::default()),
            None => file.rules_of(&below, &self.pods).map(Into::into),
        };
        let Some(rules) = rules else {
            if anew || known.is_none_or(|known| known.path.is_none()) {
                self.forget(in_force, id);
            }
            return Ok(None);
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
        Ok(Some(Planned { id, path: Some(path.to_owned()), rules: Some(rules), decision }))
    }

    /// Decides anew on a cgroup that is gone, whose sockets may live on: by its path. If that is not known, it goes by
    /// the rules of all (the set `undecided`), and is refused what they make TLS.
    fn decide_gone(&self, in_force: &mut InForce, file: &File, id: u64, undecided: u32) -> Result<Option<Planned>> {
        let Some(known) = in_force.cgroups.get(&id) else { return Ok(None) };
        let (path, mut decision) = (known.path.clone(), known.decision);
        decision.flags &= !NOT_TOLD;
        let rules: Option<Arc<[usize]>> = match path.as_deref() {
            _ if decision.service == 0 => Some(Arc::default()),
            Some(path) => file.rules_of(&self.below(path), &self.pods).map(Into::into),
            None => None,
        };
        decision.rules = match &rules {
            Some(rules) => self.set(in_force, file, rules)?,
            None => undecided,
        };
        Ok(Some(Planned { id, path, rules, decision }))
    }

    /// Notes that a cgroup is gone. It stays decided, for its sockets, until many others are gone.
    fn note_gone(&self, in_force: &mut InForce, id: u64) {
        let InForce { cgroups, by_path, gone, gone_strangers, .. } = in_force;
        let Some(known) = cgroups.get_mut(&id).filter(|known| !known.gone) else { return };
        known.gone = true;
        if let Some(path) = &known.path
            && by_path.get(path) == Some(&id)
        {
            by_path.remove(path);
        }
        let (queue, most) = match known.decision.service {
            0 => (gone_strangers, GONE_STRANGERS_MAX),
            _ => (gone, GONE_MAX),
        };
        queue.push_back(id);
        if queue.len() > most
            && let Some(oldest) = queue.pop_front()
        {
            cgroups.remove(&oldest);
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
            let decided = self.decide(&mut in_force, &file, id, path, false);
            let put = decided.and_then(|planned| planned.map_or(Ok(()), |one| self.put(&mut in_force, one)));
            if let Err(error) = put {
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
        if self.lock().own.as_deref() == Some(path) {
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

    /// Whether a rule makes something TLS, or denies it, for a service or a cgroup below it.
    pub(crate) fn depends(&self, service: &Path) -> bool {
        let in_force = self.lock();
        let mut known = in_force.cgroups.values();
        known.any(|known| known.path.as_ref().is_some_and(|path| path.starts_with(service)) && in_force.guards(known))
    }

    /// Whether a rule makes something TLS, or denies it, for a service that there is, or that may begin.
    pub(crate) fn depend(&self) -> bool {
        let in_force = self.lock();
        let there = |known: &&Known| known.path.as_ref().is_some_and(|path| path.exists());
        let may_begin = in_force.file.names_services() && !undecided_rules(&in_force.file).is_empty();
        may_begin || in_force.cgroups.values().filter(there).any(|known| in_force.guards(known))
    }

    fn below(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(&self.mount).unwrap_or(path))
    }

    fn lock(&self) -> MutexGuard<'_, InForce> {
        lock(&self.in_force)
    }
}

impl InForce {
    /// Whether a rule for a cgroup does more than leave traffic alone.
    fn guards(&self, known: &Known) -> bool {
        let rules = known.rules.iter().flat_map(|rules| rules.iter());
        rules.map(|index| self.file.rules()[*index].mode()).any(|mode| mode != Mode::Plain)
    }
}

/// Bit of [`Cgroup::flags`] that is kept here only: the hooks have another decision, or none.
const NOT_TOLD: u32 = 1 << 31;

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
