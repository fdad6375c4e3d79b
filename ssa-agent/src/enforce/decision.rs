//! Decisions of the configuration for one connection.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use ssa_common::{rule::Traffic, socket::Caller};
use tokio::time::{sleep, timeout};

use super::{
    error::Error,
    learned_names::LearnedNames,
    limits::Limits,
    policies::Policies,
    rules::{Rules, Ruling, Standing},
};
use crate::{
    policy::{Application, Direction, Effective, File, RuleMatch},
    sync::lock,
    tls::ServerName,
};

/// Configuration in force: policies, rules, names that applications have resolved, limits.
pub(crate) struct Enforcement {
    /// Policies by profile and rule.
    pub(crate) policies: Policies,
    /// Rules, by cgroup.
    pub(crate) rules: Rules,
    /// Names that applications have resolved.
    pub(crate) names: LearnedNames,
    /// Counts of connections and handshakes, and their limits.
    pub(crate) limits: Limits,
    /// Cgroups that are being decided on: all who wait for one wait for the same work.
    pub(crate) settling: Settling,
}

/// Work of deciding on cgroups, by inode.
pub(crate) type Settling = Mutex<HashMap<u64, Shared<BoxFuture<'static, Standing>>>>;

/// A connection, or a listener, that is to be decided on.
pub(crate) struct Question<'a> {
    /// Direction: out for `connect`, in for a listener.
    pub(crate) direction: Direction,
    /// Whether it is TLS because a rule says so; else the application has asked for it.
    pub(crate) by_rule: bool,
    /// Process that has called `connect` or `listen`.
    pub(crate) caller: &'a Caller,
    /// Process as profiles see it; none: it is looked up, from /proc if a profile goes by the executable.
    pub(crate) application: Option<&'a Application>,
    /// Address that it connects to, or listens at.
    pub(crate) at: SocketAddr,
    /// Id of the socket's cgroup, by which the hooks have noted what was resolved.
    pub(crate) socket_cgroup: u64,
    /// The host name that the application has set; empty for none.
    pub(crate) hostname: &'a str,
}

/// Labels of a decision for the log, whether it could be made or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct DecisionLabels {
    /// Name of the rule by which it is TLS; none if the application has asked for it.
    pub(crate) rule: Option<String>,
    /// Server name that the peer has to prove, as it was given; empty where that is not known, and for listeners.
    pub(crate) name: String,
}

/// Decision on a connection: policy, rule and server name.
#[derive(Clone)]
pub(crate) struct Decision {
    /// Policy, with its files read.
    pub(crate) effective: Arc<Effective>,
    /// Rule by which it is TLS; none if the application has asked for it.
    pub(crate) rule: Option<RuleMatch>,
    /// Server name that the peer has to prove; none for a listener's clients.
    pub(crate) name: Option<ServerName>,
}

/// Decides on a cgroup as soon as that can be, within [`UNDECIDED_LIMIT`].
async fn decide_in_time(enforcement: Arc<Enforcement>, cgroup: u64) -> Standing {
    let decided = async {
        loop {
            let own = Arc::clone(&enforcement);
            let standing = tokio::task::spawn_blocking(move || {
                let (standing, attached) = own.rules.settle(cgroup);
                if attached {
                    own.policies.cgroup_attached();
                }
                standing
            });
            match standing.await {
                Ok(Standing::Unknown) | Err(_) => sleep(UNDECIDED_PERIOD).await,
                Ok(standing @ (Standing::Served(_) | Standing::Nobody)) => return standing,
            }
        }
    };
    timeout(UNDECIDED_LIMIT, decided).await.unwrap_or(Standing::Unknown)
}

/// Time for which a cgroup may stay undecided: until the API server has told of its pod.
const UNDECIDED_LIMIT: Duration = Duration::from_secs(10);
/// Period in which such a cgroup is looked at.
const UNDECIDED_PERIOD: Duration = Duration::from_millis(20);

impl Enforcement {
    /// Finds the service of a caller, and decides on its cgroup if nobody has yet: it waits for that, at most 10 s.
    /// Cancellation loses nothing.
    pub(crate) async fn settle(self: &Arc<Self>, caller: &Caller) -> Standing {
        let cgroup = caller.cgroup;
        if let Some(standing) = self.rules.standing(cgroup) {
            return standing;
        }
        let work = {
            let mut settling = lock(&self.settling);
            // Those that are done, or that nobody waits for any more, are begun anew.
            settling.retain(|_cgroup, work| work.strong_count().is_some_and(|waiting| waiting > 1));
            let begin = || decide_in_time(Arc::clone(self), cgroup).boxed().shared();
            settling.entry(cgroup).or_insert_with(begin).clone()
        };
        work.await
    }

    /// Decides by which rule, under which policy and with whom a connection is made. May read files of the
    /// configuration, and /proc.
    pub(crate) fn decide(&self, question: &Question<'_>) -> (DecisionLabels, Result<Decision, Error>) {
        let Question { direction, by_rule, caller, at, .. } = *question;
        let traffic = match direction {
            Direction::In => Traffic::IN_TCP,
            Direction::Out => Traffic::OUT_TCP,
        };
        let ruling = by_rule.then(|| self.rules.ruling(caller.cgroup, traffic, at));
        let rule = match ruling {
            None => None,
            Some(Ruling::Tls(found)) => Some(found),
            Some(Ruling::Plain) => return (DecisionLabels::default(), Err(Error::NoRule)),
            Some(Ruling::Unknown) => return (DecisionLabels::default(), Err(Error::Undecided)),
            Some(Ruling::Denied(found)) => {
                let rule = found.name().to_owned();
                let labels = DecisionLabels { rule: Some(rule.clone()), ..Default::default() };
                return (labels, Err(Error::Denied(rule)));
            }
        };
        let mut labels =
            DecisionLabels { rule: rule.as_ref().map(|found| found.name().to_owned()), ..Default::default() };
        let name = match (direction, &rule) {
            (Direction::In, _) => Ok(None),
            (Direction::Out, None) => Ok(Some(question.hostname.to_owned())),
            (Direction::Out, Some(found)) => {
                let resolved = || self.names.of(question.socket_cgroup, at.ip());
                found.rule().name(resolved).map(Some).map_err(Error::from)
            }
        };
        if let Ok(Some(name)) = &name {
            labels.name.clone_from(name);
        }
        let decision = name.and_then(|name| self.terms(question, rule, name));
        (labels, decision)
    }

    /// Puts another configuration in force, and returns the policy's generation. On an error the last one stays, or
    /// some of it. Blocks.
    pub(crate) fn replace(&self, file: Arc<File>) -> Result<u64> {
        self.rules.replace(Arc::clone(&file))?;
        let limits = file.machine().limits;
        let generation = self.policies.replace(file)?;
        self.limits.replace(&limits);
        Ok(generation)
    }

    /// Writes the configuration in force to the hooks again, after another agent has written its own. Blocks.
    pub(crate) fn put_in_force_again(&self) -> Result<()> {
        self.rules.put_in_force_again()?;
        self.policies.replace(self.rules.file())?;
        Ok(())
    }

    fn terms(&self, question: &Question<'_>, rule: Option<RuleMatch>, name: Option<String>) -> Result<Decision, Error> {
        let name = name.map(|name| ServerName::parse(&name)).transpose()?;
        let looked_up = || self.policies.effective(&self.policies.application(question.caller)?, rule.as_ref());
        let effective = match question.application {
            Some(application) => match self.policies.effective(application, rule.as_ref()) {
                // Since the listener began, a profile has come that goes by the executable.
                Err(Error::PolicyChanging) => looked_up()?,
                found => found?,
            },
            None => looked_up()?,
        };
        Ok(Decision { effective, rule, name })
    }
}
