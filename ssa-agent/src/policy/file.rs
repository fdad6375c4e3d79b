//! The configuration file: its parts, and what is wrong with one.

use std::{
    collections::HashSet,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{
    pod::Pods,
    policy::Policy,
    profile::Profile,
    rule::Rule,
    section::Keys as _,
    sections::{
        CacheKeys, ControlKeys, CredentialsKeys, LimitsKeys, MonitorKeys, RevocationKeys, SessionsKeys, TimeKeys,
        TlsKeys, TrustKeys,
    },
    selector::Selector,
    value::UserGroup,
};

/// What TLS may be on this machine, and for whom it is different. Copy it to /etc/ssa/agent.toml.
///
/// Every key is here, commented out, with its default; or with an example, where the text says what the default is.
/// `ssa-agent check` says what is wrong with a file, or what it comes to. `ssa-agent reload` and SIGHUP put it in force, for new
/// connections. Applications can only ask for more than it demands: what is weaker fails with `EPROTO`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "Configuration of ssa-agent")]
pub(crate) struct File {
    tls: TlsKeys,
    trust: TrustKeys,
    revocation: RevocationKeys,
    sessions: SessionsKeys,
    time: TimeKeys,
    credentials: CredentialsKeys,
    limits: LimitsKeys,
    cache: CacheKeys,
    control: ControlKeys,
    monitor: MonitorKeys,
    #[serde(rename = "service")]
    #[schemars(with = "Vec<Selector>")]
    services: Vec<Spanned<Selector>>,
    /// Rules, in the order of the file.
    #[serde(rename = "rule")]
    pub(super) rules: Vec<Rule>,
    /// Profiles, in the order of the file.
    #[serde(rename = "profile")]
    pub(crate) profiles: Vec<Profile>,
    /// Not the defaults, for want of a file.
    #[serde(skip)]
    pub(crate) is_from_file: bool,
    /// Path that it was read from; empty for the defaults.
    #[serde(skip)]
    pub(super) path: PathBuf,
    /// Lines of its rules, by index.
    #[serde(skip)]
    pub(super) rule_lines: Vec<usize>,
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
    /// Reads the configuration; the defaults if no file is named and the usual one is not there. Blocks.
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
        let parsed = Self::parse(&text).map(|file| Self { is_from_file: true, path: path.to_owned(), ..file });
        parsed.map_err(|wrong| Error::Bad {
            path: path.to_owned(),
            place: Place(wrong.at.map(|at| position(&text, at))),
            what: wrong.what,
        })
    }

    /// Parses and checks the text of a file. No other file is read.
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        let mut file: Self = toml::from_str(text).map_err(|error| Wrong {
            at: error.span().map(|span| span.start),
            what: renamed(error.message()).unwrap_or_else(|| error.message().replace('\n', ", ")),
        })?;
        if let Some(soft) = file.revocation.soft_fail.as_ref().filter(|soft| *soft.0.get_ref()) {
            let what = "`soft_fail` is for profiles only, so that it is known for whom nothing is sure".to_owned();
            return Err(Wrong { at: Some(soft.0.span().start), what });
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
        file.rule_lines = file.rules.iter().map(|rule| position(text, rule.name.span().start).0).collect();
        let mut names = HashSet::new();
        for rule in &file.rules {
            let wrong = |what: String| {
                let (at, name) = (Some(rule.name.span().start), rule.name.get_ref());
                Wrong { at, what: format!("rule {name}: {what}") }
            };
            rule.check(&file.profiles, file.machine()).map_err(wrong)?;
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
    pub(crate) fn selects(&self, cgroup: &Path, pods: &Pods) -> bool {
        self.all_services().any(|service| service.selects(cgroup, pods))
    }

    /// Whether pods are to be looked for.
    pub(crate) fn asks_for_pods(&self) -> bool {
        self.all_services().any(Selector::asks_for_pods)
    }

    /// Whether a cgroup below this one can come to be attached by itself.
    pub(crate) fn may_select_below(&self, cgroup: &Path) -> bool {
        self.all_services().any(|service| service.may_select_below(cgroup))
    }

    /// Whether services are named, which may begin at any time.
    pub(crate) fn names_services(&self) -> bool {
        self.all_services().next().is_some()
    }

    /// Those of the file, and those that rules are for.
    fn all_services(&self) -> impl Iterator<Item = &Selector> {
        self.services.iter().map(Spanned::get_ref).chain(self.rules.iter().filter_map(Rule::service))
    }

    /// Its rules.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The policy of a rule's connections, for applications with these profiles.
    pub(crate) fn policy_by_rule(&self, profiles: &[usize], rule: &Rule) -> Policy {
        let mut policy = self.policy(profiles);
        rule.refine(&self.profiles, &mut policy);
        policy
    }

    /// Where metrics and health are asked for.
    pub(crate) fn monitor(&self) -> Option<SocketAddr> {
        self.monitor.in_force().listen
    }

    /// Who may use the control socket, besides root.
    pub(crate) fn control_group(&self) -> Option<UserGroup> {
        self.control.in_force().group
    }

    /// Where answers about revocation are kept; none if they are not.
    pub(crate) fn cache_directory(&self) -> Option<PathBuf> {
        let directory = self.cache.in_force().directory;
        (!directory.as_os_str().is_empty()).then_some(directory)
    }

    /// How long connections may go on when another agent has taken over.
    pub(crate) fn finish_limit(&self) -> Duration {
        Duration::from_secs(self.control.in_force().finish_seconds)
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

    /// The policy of applications that no profile is for.
    pub(crate) fn machine(&self) -> Policy {
        let mut policy = Policy::default();
        let Self { tls, trust, revocation, sessions, time, credentials, limits, .. } = self;
        policy.refine(tls, trust, revocation, sessions, time, credentials);
        limits.refine(&mut policy.limits);
        policy
    }
}

/// A mistake in a configuration, and the byte of the text at which it is.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Offset in the text, in bytes; none if it is of the whole file.
    pub(super) at: Option<usize>,
    /// What is wrong, and what to do.
    pub(super) what: String,
}

/// Keys by their former names, and what they are now.
const RENAMED: [(&str, &str); 2] = [
    ("own_tls", "`app_tls`: \"passthrough\" for what was \"pass\", \"reject\" for what was \"refuse\""),
    ("programs_may_bring_cas", "`applications_may_bring_cas`"),
];

/// What to say of a key that is refused under its former name; none of any other mistake.
fn renamed(message: &str) -> Option<String> {
    let is_about = |old: &str| message.starts_with(&format!("unknown field `{old}`"));
    RENAMED.iter().find(|(old, _new)| is_about(old)).map(|(old, new)| format!("`{old}` is called {new} now"))
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
