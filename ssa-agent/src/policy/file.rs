//! The configuration file: its keys, and what is wrong with one.
//!
//! `deploy/agent.toml` has every key with its default and its meaning; a test compares the two.

use std::{
    collections::HashSet,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use toml::Spanned;

use crate::services::pods::Pods;

use super::{
    policy::{FetchFrom, Policy, Version},
    rule::Rule,
    selector::Service,
    value::{Alpn, Count, Group, Seconds, SignatureAlgorithm, Suite12, Suite13, User, UserGroup},
};

/// A file as it was written: keys that are absent are none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    tls: Tls,
    trust: Trust,
    revocation: Revocation,
    sessions: Sessions,
    time: Time,
    credentials: Credentials,
    limits: Limits,
    cache: Cache,
    monitor: Monitor,
    control: Control,
    #[serde(rename = "profile")]
    pub(crate) profiles: Vec<Profile>,
    #[serde(rename = "service")]
    services: Vec<Spanned<Service>>,
    #[serde(rename = "rule")]
    pub(super) rules: Vec<Rule>,
    /// Not the defaults, for want of a file.
    #[serde(skip)]
    pub(crate) is_from_file: bool,
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub(crate) enum Config {
    /// [`DEFAULT_PATH`], or the defaults if there is no such file.
    Default,
    File(PathBuf),
    /// The defaults, whatever is in a file.
    None,
}

/// The file that is read if none is named.
const DEFAULT_PATH: &str = "/etc/ssa/agent.toml";

impl Config {
    pub(crate) fn read(&self) -> Result<File, Error> {
        match self {
            Self::Default => match self.read_again() {
                Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(File::default()),
                read => read,
            },
            Self::File(_) | Self::None => self.read_again(),
        }
    }

    /// As [`Self::read`], where there was a file before: that it is gone is a mistake, not a wish for the
    /// defaults.
    pub(crate) fn read_again(&self) -> Result<File, Error> {
        match self {
            Self::Default => File::read(Path::new(DEFAULT_PATH)),
            Self::File(path) => File::read(path),
            Self::None => Ok(File::default()),
        }
    }

    /// For messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Default if !Path::new(DEFAULT_PATH).exists() => format!("no {DEFAULT_PATH}, so the defaults"),
            Self::Default => DEFAULT_PATH.to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::None => "the defaults".to_owned(),
        }
    }
}

/// What is different for some programs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    pub(super) name: Spanned<String>,
    /// Absolute path of the program.
    pub(crate) executable: Option<PathBuf>,
    /// A cgroup below the mount, and all that is below it.
    pub(super) cgroup: Option<PathBuf>,
    /// A systemd unit: the last part of a cgroup's path.
    pub(super) unit: Option<String>,
    pub(crate) user: Option<User>,
    #[serde(default)]
    tls: Tls,
    #[serde(default)]
    trust: Trust,
    #[serde(default)]
    revocation: Revocation,
    #[serde(default)]
    sessions: Sessions,
    #[serde(default)]
    time: Time,
    #[serde(default)]
    credentials: Credentials,
    #[serde(default)]
    limits: ProfileLimits,
}

/// A list whose elements are checked one by one: an error of serde's own would name the list's place.
type Texts = Vec<Spanned<String>>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    version_min: Option<Version>,
    version_max: Option<Version>,
    ciphers: Option<Texts>,
    ciphersuites: Option<Texts>,
    groups: Option<Texts>,
    signature_algorithms: Option<Texts>,
    alpn: Option<Texts>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Trust {
    system: Option<bool>,
    files: Option<Vec<PathBuf>>,
    directories: Option<Vec<PathBuf>>,
    programs_may_bring_cas: Option<bool>,
    verify_depth: Option<Count>,
    strict: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Revocation {
    checks: Option<bool>,
    stapled: Option<bool>,
    ocsp: Option<bool>,
    crl: Option<bool>,
    cached: Option<bool>,
    nonce: Option<bool>,
    /// For profiles only.
    soft_fail: Option<Spanned<bool>>,
    fetch_from: Option<FetchFrom>,
    fetch_seconds: Option<Seconds>,
    fetch_local: Option<bool>,
    close_revoked: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Sessions {
    reuse: Option<bool>,
    lifetime_seconds: Option<Count>,
    tickets: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Time {
    connect_seconds: Option<Seconds>,
    handshake_seconds: Option<Seconds>,
    idle_seconds: Option<Count>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Credentials {
    chain: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    sockets: Option<Count>,
    sockets_per_user: Option<Count>,
    connections: Option<Count>,
    connections_per_service: Option<Count>,
    connections_per_user: Option<Count>,
    handshakes: Option<Count>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Cache {
    directory: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Control {
    group: Option<UserGroup>,
    finish_seconds: Option<Count>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Monitor {
    listen: Option<SocketAddr>,
}

/// The limit for the whole machine is nobody's own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ProfileLimits {
    sockets_per_user: Option<Count>,
}

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{place}{what}", path.display())]
    Bad { path: PathBuf, place: Place, what: String },
}

/// Line and column, from 1.
#[derive(Debug)]
pub(crate) struct Place(Option<(usize, usize)>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((line, column)) => write!(f, "{line}:{column}: "),
            None => f.write_str(" "),
        }
    }
}

impl File {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let parsed = Self::parse(&text).map(|file| Self { is_from_file: true, ..file });
        parsed.map_err(|wrong| Error::Bad {
            path: path.to_owned(),
            place: Place(wrong.at.map(|at| position(&text, at))),
            what: wrong.what,
        })
    }

    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        let file: Self = toml::from_str(text).map_err(|error| Wrong {
            at: error.span().map(|span| span.start),
            what: error.message().replace('\n', ", "),
        })?;
        std::iter::once(&file.tls).chain(file.profiles.iter().map(|profile| &profile.tls)).try_for_each(Tls::check)?;
        if let Some(soft) = file.revocation.soft_fail.as_ref().filter(|soft| *soft.get_ref()) {
            let what = "`soft_fail` is for profiles only, so that it is known for whom nothing is sure".to_owned();
            return Err(Wrong { at: Some(soft.span().start), what });
        }
        let section = |name: &str| find_section(text, name, None);
        file.machine().check().map_err(|(name, what)| Wrong { at: section(name), what })?;
        for service in &file.services {
            service.get_ref().check().map_err(|what| Wrong { at: Some(service.span().start), what })?;
        }
        for profile in &file.profiles {
            let start = profile.name.span().start;
            let wrong =
                |what: String| Wrong { at: Some(start), what: format!("profile {}: {what}", profile.name.get_ref()) };
            profile.check().map_err(wrong)?;
            let mut policy = file.machine();
            profile.refine(&mut policy);
            policy.check().map_err(|(name, what)| Wrong {
                at: find_section(text, &format!("profile.{name}"), Some(start)).or(Some(start)),
                what: format!("profile {}: {what}", profile.name.get_ref()),
            })?;
        }
        let mut names = HashSet::new();
        for rule in &file.rules {
            let wrong = |what: String| {
                let (at, name) = (Some(rule.name.span().start), rule.name.get_ref());
                Wrong { at, what: format!("rule {name}: {what}") }
            };
            rule.check(&file).map_err(wrong)?;
            if !names.insert(rule.name.get_ref()) {
                return Err(wrong("another rule has this name".to_owned()));
            }
        }
        Ok(file)
    }

    /// For fuzzers: reads a text, and what the policies come to.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn fuzz(text: &str) {
        match Self::parse(text) {
            Ok(file) => file.policies().for_each(|(_key, policy)| assert!(policy.check().is_ok(), "{policy:?}")),
            Err(wrong) => drop(wrong.at.map(|at| position(text, at))),
        }
    }

    /// Whether the agent is to attach a cgroup by itself; by its path below the mount, with a slash before it.
    pub(crate) fn wants(&self, cgroup: &Path, pods: &Pods) -> bool {
        self.all_services().any(|service| service.takes(cgroup, pods))
    }

    /// Whether pods are to be looked for.
    pub(crate) fn asks_for_pods(&self) -> bool {
        self.all_services().any(Service::asks_for_pods)
    }

    /// Those of the file, and those that rules are for.
    fn all_services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().map(Spanned::get_ref).chain(self.rules.iter().filter_map(Rule::service))
    }

    /// Its rules.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The policy of a rule's connections, for programs with these profiles.
    pub(crate) fn policy_by_rule(&self, profiles: &[usize], rule: &Rule) -> Policy {
        let mut policy = self.policy(profiles);
        rule.refine(self, &mut policy);
        policy
    }

    /// Where metrics and health are asked for.
    pub(crate) fn monitor(&self) -> Option<SocketAddr> {
        self.monitor.listen
    }

    /// Who may use the control socket, besides root.
    pub(crate) fn control_group(&self) -> Option<UserGroup> {
        self.control.group
    }

    /// Where answers about revocation are kept; none if they are not.
    pub(crate) fn cache_directory(&self) -> Option<PathBuf> {
        const DEFAULT: &str = "/var/cache/ssa-agent";
        let directory = self.cache.directory.clone().unwrap_or_else(|| PathBuf::from(DEFAULT));
        (!directory.as_os_str().is_empty()).then_some(directory)
    }

    /// How long connections may go on when another agent has taken over.
    pub(crate) fn finish_limit(&self) -> Duration {
        const DEFAULT: Duration = Duration::from_secs(3600);
        self.control.finish_seconds.map_or(DEFAULT, |seconds| Duration::from_secs(seconds.into()))
    }

    /// Reads all certificates and keys that it names, to see that they are good.
    pub(crate) fn load_all(&self) -> Result<(), super::policy::LoadError> {
        let mut seen = Vec::new();
        for (_key, policy) in self.policies() {
            if !seen.contains(&policy) {
                super::policy::Effective::load(policy.clone())?;
                seen.push(policy);
            }
        }
        Ok(())
    }

    /// The machine's policy, and that of each profile and each rule by itself.
    pub(crate) fn policies(&self) -> impl Iterator<Item = ((Vec<usize>, Option<usize>), Policy)> {
        let profiles = std::iter::once(Vec::new()).chain((0..self.profiles.len()).map(|index| vec![index]));
        let profiles = profiles.map(|profiles| {
            let policy = self.policy(&profiles);
            ((profiles, None), policy)
        });
        let rules = self.rules.iter().enumerate().filter(|(_index, rule)| rule.mode().is_tls());
        profiles.chain(rules.map(|(index, rule)| ((Vec::new(), Some(index)), self.policy_by_rule(&[], rule))))
    }

    /// The policy of programs that no profile is for.
    pub(crate) fn machine(&self) -> Policy {
        let mut policy = Policy::default();
        let Self { tls, trust, revocation, sessions, time, credentials, .. } = self;
        refine(&mut policy, tls, trust, revocation, sessions, time, credentials);
        let (limits, given) = (&mut policy.limits, &self.limits);
        set(&mut limits.sockets, given.sockets.map(u64::from));
        set(&mut limits.sockets_per_user, given.sockets_per_user.map(u64::from));
        set(&mut limits.connections, given.connections.map(u64::from));
        set(&mut limits.connections_per_service, given.connections_per_service.map(u64::from));
        set(&mut limits.connections_per_user, given.connections_per_user.map(u64::from));
        set(&mut limits.handshakes, given.handshakes.map(u64::from));
        policy
    }
}

/// What is wrong, and at which byte.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) at: Option<usize>,
    pub(super) what: String,
}

impl Profile {
    /// Overrides what the profile has keys for.
    pub(super) fn refine(&self, policy: &mut Policy) {
        let Self { tls, trust, revocation, sessions, time, credentials, .. } = self;
        refine(policy, tls, trust, revocation, sessions, time, credentials);
        set(&mut policy.limits.sockets_per_user, self.limits.sockets_per_user.map(u64::from));
    }

    fn check(&self) -> Result<(), String> {
        if self.executable.is_none() && self.cgroup.is_none() && self.unit.is_none() && self.user.is_none() {
            return Err("it is for nobody: give it an `executable`, `unit`, `cgroup` or `user`".to_owned());
        }
        if self.executable.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("`executable` must be an absolute path".to_owned());
        }
        if self.unit.as_ref().is_some_and(|unit| !unit.contains('.') || unit.contains('/')) {
            return Err("`unit` must be a unit's whole name, such as \"nginx.service\"".to_owned());
        }
        Ok(())
    }
}

pub(super) fn refine(
    policy: &mut Policy,
    tls: &Tls,
    trust: &Trust,
    revocation: &Revocation,
    sessions: &Sessions,
    time: &Time,
    credentials: &Credentials,
) {
    set(&mut policy.tls.version_min, tls.version_min);
    set(&mut policy.tls.version_max, tls.version_max);
    set(&mut policy.tls.ciphers, list(&tls.ciphers, |suite: Suite12| suite.0));
    set(&mut policy.tls.ciphersuites, list(&tls.ciphersuites, |suite: Suite13| suite.0));
    set(&mut policy.tls.groups, list(&tls.groups, |group: Group| group.0));
    set(&mut policy.tls.signature_algorithms, list(&tls.signature_algorithms, |one: SignatureAlgorithm| one.0));
    set(&mut policy.tls.alpn, list(&tls.alpn, |protocol: Alpn| protocol.0));
    set(&mut policy.trust.system, trust.system);
    set(&mut policy.trust.files, trust.files.clone());
    set(&mut policy.trust.directories, trust.directories.clone());
    set(&mut policy.trust.programs_may_bring_cas, trust.programs_may_bring_cas);
    set(&mut policy.trust.verify_depth, trust.verify_depth.map(u64::from));
    set(&mut policy.trust.strict, trust.strict);
    let checks = &mut policy.revocation;
    set(&mut checks.checks, revocation.checks);
    set(&mut checks.stapled, revocation.stapled);
    set(&mut checks.ocsp, revocation.ocsp);
    set(&mut checks.crl, revocation.crl);
    set(&mut checks.cached, revocation.cached);
    set(&mut checks.nonce, revocation.nonce);
    set(&mut checks.soft_fail, revocation.soft_fail.as_ref().map(|soft| *soft.get_ref()));
    set(&mut checks.fetch_from, revocation.fetch_from);
    set(&mut checks.fetch_seconds, revocation.fetch_seconds);
    set(&mut checks.fetch_local, revocation.fetch_local);
    set(&mut checks.close_revoked, revocation.close_revoked);
    set(&mut policy.sessions.reuse, sessions.reuse);
    if let Some(lifetime) = sessions.lifetime_seconds {
        policy.sessions.lifetime_seconds = Some(lifetime.into());
    }
    set(&mut policy.sessions.tickets, sessions.tickets);
    set(&mut policy.time.connect_seconds, time.connect_seconds);
    set(&mut policy.time.handshake_seconds, time.handshake_seconds);
    set(&mut policy.time.idle_seconds, time.idle_seconds.map(u64::from));
    if credentials.chain.is_some() || credentials.key.is_some() {
        policy.credentials.chain.clone_from(&credentials.chain);
        policy.credentials.key.clone_from(&credentials.key);
    }
}

/// The values of a list that was checked.
fn list<T: TryFrom<String>, U>(texts: &Option<Texts>, get: impl Fn(T) -> U) -> Option<Vec<U>> {
    let values = texts.as_ref()?.iter().filter_map(|text| T::try_from(text.get_ref().clone()).ok());
    Some(values.map(get).collect())
}

/// Finds the first text of a list that is no value.
fn check<T: TryFrom<String, Error = String>>(texts: &Option<Texts>) -> Result<(), Wrong> {
    texts.iter().flatten().try_for_each(|text| match T::try_from(text.get_ref().clone()) {
        Ok(_) => Ok(()),
        Err(what) => Err(Wrong { at: Some(text.span().start), what }),
    })
}

impl Revocation {
    /// Whether it lets peers be of which nothing is known.
    pub(super) fn is_soft(&self) -> bool {
        self.soft_fail.as_ref().is_some_and(|soft| *soft.get_ref())
    }
}

impl Tls {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        check::<Suite12>(&self.ciphers)?;
        check::<Suite13>(&self.ciphersuites)?;
        check::<Group>(&self.groups)?;
        check::<SignatureAlgorithm>(&self.signature_algorithms)?;
        check::<Alpn>(&self.alpn)
    }
}

fn set<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}

/// Where `[name]` stands, after a byte; none if the section is not there.
fn find_section(text: &str, name: &str, after: Option<usize>) -> Option<usize> {
    let from = after.unwrap_or(0);
    text.get(from..)?.find(&format!("[{name}]")).map(|at| from + at)
}

/// Line and column of a byte, from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    (line, column)
}
