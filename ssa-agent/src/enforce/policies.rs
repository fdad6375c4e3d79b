//! Policies in force: for each connection, and as rows for the hooks.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use ssa_common::{
    policy::{Policy as Row, PolicyKey, UNKNOWN_CGROUP},
    socket::Caller,
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::error::Error;
use crate::{
    kernel::{self, PolicyMaps},
    policy::{Application, Effective, File, LoadError, Policy, Profile, RuleMatch, loosen, row, stamps},
    services::Attached,
    sync::lock,
    sys::{as_caller::executable, cgroup, on_behalf},
};

/// Policies in force, for applications by their cgroup, user and executable.
pub(crate) struct Policies {
    maps: Arc<PolicyMaps>,
    attached: Arc<Attached>,
    /// Mount point of the cgroup file system.
    mount: PathBuf,
    in_force: Mutex<InForce>,
    /// Whether a selector of the file asks for pods.
    wants_pods: watch::Sender<bool>,
}

/// Policy in force, and the rows that the hooks have of it.
struct InForce {
    file: Arc<File>,
    generation: u64,
    /// Policies with their files, by the indices of the profiles that go into them, and of the rule, if it is a rule's.
    effective: HashMap<(Vec<usize>, Option<usize>), Arc<Effective>>,
    /// Policies with their files, each once: rules by the thousand have few policies.
    loaded: Vec<Arc<Effective>>,
    /// Paths of cgroups below the mount, by inode.
    cgroups: HashMap<u64, PathBuf>,
    /// Keys of the rows that the hooks have.
    rows: HashSet<PolicyKey>,
    /// Classes of sets of profiles, by whether the set is of users, or of cgroups.
    numbers: HashMap<(bool, Vec<usize>), u32>,
    next_class: u32,
}

impl Policies {
    /// Puts a policy in force for the first time. Reads files of the configuration. Errors: no cgroup mount, unusable
    /// files, full maps.
    pub(crate) fn new(maps: Arc<PolicyMaps>, attached: Arc<Attached>, file: Arc<File>) -> Result<Self, Error> {
        let mount = cgroup::mount().map_err(Error::Mount)?;
        let base = Arc::new(Effective::load(file.policy(&[]))?);
        // Classes of an agent before this one mean nothing, and go when those of this one are there.
        let left: HashSet<PolicyKey> = maps.policy_keys().into_iter().collect();
        let in_force = InForce {
            file,
            generation: 1,
            effective: HashMap::from([((Vec::new(), None), Arc::clone(&base))]),
            loaded: vec![base],
            cgroups: HashMap::new(),
            next_class: left
                .iter()
                .flat_map(|key| [key.cgroup, key.user])
                .filter(|class| *class != UNKNOWN_CGROUP)
                .max()
                .unwrap_or(0)
                + 1,
            rows: left,
            numbers: HashMap::new(),
        };
        let wants_pods = watch::Sender::new(in_force.file.asks_for_pods());
        let policies = Self { maps, attached, mount, in_force: Mutex::new(in_force), wants_pods };
        policies.write_rows(&mut policies.lock())?;
        Ok(policies)
    }

    /// Puts another policy in force, and returns its generation. On an error the last one stays. Blocks: reads files of
    /// the configuration.
    pub(crate) fn replace(&self, file: Arc<File>) -> Result<u64, Error> {
        // Files that can't be read show now, not at the first connection.
        let mut effective = HashMap::new();
        let mut loaded: Vec<Arc<Effective>> = Vec::new();
        for (key, policy) in file.policies() {
            let one = load(&mut loaded, policy)?;
            effective.insert(key, one);
        }
        let mut in_force = self.lock();
        let generation = in_force.generation + 1;
        let before = std::mem::replace(&mut in_force.file, file);
        let numbers = std::mem::take(&mut in_force.numbers);
        if let Err(error) = self.write_rows(&mut in_force) {
            in_force.file = before;
            in_force.numbers = numbers;
            return Err(error);
        }
        in_force.generation = generation;
        in_force.effective = effective;
        in_force.loaded = loaded;
        self.wants_pods.send_replace(in_force.file.asks_for_pods());
        info!(generation, "a new policy is in force");
        Ok(generation)
    }

    /// Number of policies that were in force, this one among them.
    pub(crate) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Whether the policy that is in force comes from a file.
    pub(crate) fn is_from_file(&self) -> bool {
        self.lock().file.is_from_file
    }

    /// Looks up what profiles ask of a caller. Its executable is read from /proc only if a profile of its cgroup and
    /// user goes by one: an application that has ended, or dropped its user, since it called is none of the others'
    /// business.
    pub(crate) fn application(&self, caller: &Caller) -> Result<Application, Error> {
        let (cgroup, file) = {
            let mut in_force = self.lock();
            (self.cgroup_of(&mut in_force, caller), Arc::clone(&in_force.file))
        };
        let mut application = Application { uid: caller.uid, cgroup, executable: None };
        if file.asks_for_executable(&application) {
            application.executable = Some(executable(caller).map_err(Error::ApplicationChanged)?);
        }
        Ok(application)
    }

    /// Looks up the policy for an application; for its connections by a rule, if one is given. May read files of the
    /// configuration.
    pub(crate) fn effective(
        &self,
        application: &Application,
        by_rule: Option<&RuleMatch>,
    ) -> Result<Arc<Effective>, Error> {
        let mut in_force = self.lock();
        if application.executable.is_none() && in_force.file.asks_for_executable(application) {
            return Err(Error::PolicyChanging);
        }
        if by_rule.is_some_and(|found| !Arc::ptr_eq(&found.file, &in_force.file)) {
            return Err(Error::RulesChanging);
        }
        let key = (in_force.file.profiles_of(application), by_rule.map(|found| found.index));
        if let Some(effective) = in_force.effective.get(&key) {
            return Ok(Arc::clone(effective));
        }
        let policy = match by_rule {
            Some(found) => in_force.file.policy_by_rule(&key.0, found.rule()),
            None => in_force.file.policy(&key.0),
        };
        let one = load(&mut in_force.loaded, policy)?;
        in_force.effective.insert(key, Arc::clone(&one));
        Ok(one)
    }

    /// Notes an application that was seen: if its cgroup is new, the hooks learn its class.
    pub(crate) fn seen(&self, caller: &Caller) {
        let mut in_force = self.lock();
        if !in_force.file.profiles.is_empty() {
            self.cgroup_of(&mut in_force, caller);
        }
    }

    /// Takes up certificates and keys of the configuration that were replaced, for new connections. If they are no
    /// good, the old ones stay until others come; `logged` keeps what was logged of that. Blocks.
    pub(crate) fn renew(&self, logged: &mut HashSet<String>) {
        let all = self.lock().loaded.clone();
        for before in all.into_iter().filter(|one| stamps(&one.policy) != one.files) {
            match Effective::load(before.policy.clone()) {
                Ok(loaded) => {
                    let (mut in_force, loaded) = (self.lock(), Arc::new(loaded));
                    let InForce { effective, loaded: all, .. } = &mut *in_force;
                    for one in effective.values_mut().chain(all).filter(|one| Arc::ptr_eq(one, &before)) {
                        *one = Arc::clone(&loaded);
                    }
                    info!("replaced certificates of the configuration are in force");
                    logged.clear();
                }
                Err(error) => {
                    let text = error.to_string();
                    if logged.insert(text.clone()) {
                        warn!(error = text, "certificates were replaced by some that are no good; the old ones stay");
                    }
                }
            }
        }
    }

    /// Path of a caller's cgroup below the mount; that of its service, if it is gone.
    fn cgroup_of(&self, in_force: &mut InForce, caller: &Caller) -> PathBuf {
        let id = caller.cgroup;
        let of_service =
            || self.attached.path(caller.service).map_or_else(PathBuf::new, |path| self.below_mount(&path));
        if !in_force.cgroups.contains_key(&id) && !in_force.file.profiles.is_empty() {
            self.refresh(in_force);
            // One that belongs to no service, or is not decided on yet: once is enough to look.
            if let (false, Ok(path)) = (in_force.cgroups.contains_key(&id), on_behalf::cgroup_path(id)) {
                in_force.cgroups.insert(id, self.below_mount(&path));
            }
        }
        in_force.cgroups.get(&id).cloned().unwrap_or_else(of_service)
    }

    /// Whether pods of Kubernetes are to be looked for, now and after each reload.
    pub(crate) fn wants_pods(&self) -> watch::Receiver<bool> {
        self.wants_pods.subscribe()
    }

    /// Notes that another cgroup is attached: the hooks learn the classes of what is below.
    pub(crate) fn cgroup_attached(&self) {
        self.refresh(&mut self.lock());
    }

    fn refresh(&self, in_force: &mut InForce) {
        if let Err(error) = self.write_rows(in_force) {
            warn!(error = &error as &dyn std::error::Error, "the hooks keep the rows that they have");
        }
    }

    fn below_mount(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(&self.mount).unwrap_or(path))
    }

    /// Writes the rows of all classes, then the classes, then deletes the rows of before. For a moment a hook may find
    /// the row of everybody else, which `connect` makes good.
    fn write_rows(&self, in_force: &mut InForce) -> Result<(), Error> {
        self.find_cgroups(in_force);
        let file = Arc::clone(&in_force.file);
        let profiles = |takes: &dyn Fn(&Profile) -> bool| -> Vec<usize> {
            file.profiles.iter().enumerate().filter(|(_, profile)| takes(profile)).map(|(index, _)| index).collect()
        };
        let others = profiles(&Profile::takes_any_cgroup);
        let by_cgroup: HashMap<u64, Vec<usize>> =
            in_force.cgroups.iter().map(|(id, path)| (*id, profiles(&|profile| profile.takes_cgroup(path)))).collect();
        let mut cgroup_sets = HashMap::from([(others.clone(), 0)]);
        let of_cgroups: HashMap<u64, u32> =
            by_cgroup.into_iter().map(|(id, set)| (id, in_force.number(false, &mut cgroup_sets, set))).collect();
        let mut user_sets = HashMap::from([(profiles(&|profile| profile.user.is_none()), 0)]);
        let uids: HashSet<u32> = file.profiles.iter().filter_map(|profile| profile.user).map(|user| user.0).collect();
        let of_users: HashMap<u32, u32> = uids
            .into_iter()
            .map(|uid| (uid, in_force.number(true, &mut user_sets, profiles(&|profile| profile.takes_user(uid)))))
            .collect();
        let mut rows = HashSet::new();
        for (by_user, user) in &user_sets {
            let both = |by_cgroup: &[usize]| -> Vec<usize> {
                by_cgroup.iter().copied().filter(|index| by_user.contains(index)).collect()
            };
            // Applications of a cgroup that is not known yet may be anybody's: `connect` decides.
            let mut unknown = row(&file, &both(&others));
            for (by_cgroup, cgroup) in &cgroup_sets {
                let row = row(&file, &both(by_cgroup));
                loosen(&mut unknown, &row);
                in_force.put_row(&self.maps, PolicyKey { cgroup: *cgroup, user: *user }, &row, &mut rows)?;
            }
            for index in 0..file.profiles.len() {
                loosen(&mut unknown, &row(&file, &[&both(&others)[..], &both(&[index])[..]].concat()));
            }
            let key = PolicyKey { cgroup: UNKNOWN_CGROUP, user: *user };
            in_force.put_row(&self.maps, key, &unknown, &mut rows)?;
        }
        self.maps.set_classes(&of_cgroups, &of_users)?;
        for gone in in_force.rows.difference(&rows) {
            self.maps.remove_policy(gone);
        }
        in_force.rows = rows;
        Ok(())
    }

    /// Finds the attached cgroups and all below them.
    fn find_cgroups(&self, in_force: &mut InForce) {
        in_force.cgroups.clear();
        if in_force.file.profiles.is_empty() {
            // All are of one class.
            return;
        }
        let mut left: Vec<PathBuf> = self.attached.paths().into_values().collect();
        while let Some(path) = left.pop() {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            in_force.cgroups.insert(metadata.ino(), self.below_mount(&path));
            let children = fs::read_dir(&path).into_iter().flatten().flatten();
            left.extend(
                children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())).map(|child| child.path()),
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, InForce> {
        lock(&self.in_force)
    }
}

impl InForce {
    /// Class of a set of profiles, which keeps its number for as long as the file is in force. No number is ever used
    /// for another set.
    fn number(&mut self, of_user: bool, sets: &mut HashMap<Vec<usize>, u32>, set: Vec<usize>) -> u32 {
        if let Some(number) = sets.get(&set) {
            return *number;
        }
        let Self { numbers, next_class, .. } = self;
        let number = *numbers.entry((of_user, set.clone())).or_insert_with(|| {
            *next_class += 1;
            *next_class - 1
        });
        sets.insert(set, number);
        number
    }

    /// Writes a row, and notes that the hooks have it, whatever comes after.
    fn put_row(
        &mut self,
        maps: &PolicyMaps,
        key: PolicyKey,
        row: &Row,
        rows: &mut HashSet<PolicyKey>,
    ) -> Result<(), kernel::Error> {
        maps.set_policy(&key, row)?;
        self.rows.insert(key);
        rows.insert(key);
        Ok(())
    }
}

/// Loads a policy's files, unless the same policy was loaded before.
fn load(loaded: &mut Vec<Arc<Effective>>, policy: Policy) -> Result<Arc<Effective>, LoadError> {
    if let Some(same) = loaded.iter().find(|one| one.policy == policy) {
        return Ok(Arc::clone(same));
    }
    let one = Arc::new(Effective::load(policy)?);
    loaded.push(Arc::clone(&one));
    Ok(one)
}
