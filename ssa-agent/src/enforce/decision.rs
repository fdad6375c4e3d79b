//! What the configuration decides for one connection.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;
use ssa_common::{rule::Traffic, socket::Caller};

use super::{error::Error, learned_names::LearnedNames, limits::Limits, policies::Policies, rules::Rules};
use crate::{
    policy::{Application, Direction, Effective, File, RuleMatch},
    tls::ServerName,
};

/// All that is in force: policy, rules, names that applications have resolved, limits.
pub(crate) struct Enforcement {
    /// Policies by profile and rule.
    pub(crate) policies: Policies,
    /// Which rule is for what.
    pub(crate) rules: Rules,
    /// What applications have resolved.
    pub(crate) names: LearnedNames,
    /// Connections and handshakes, counted.
    pub(crate) limits: Limits,
}

/// A connection, or a listener, on which is to be decided.
pub(crate) struct Question<'a> {
    /// Who begins it.
    pub(crate) direction: Direction,
    /// Whether it is TLS because a rule says so; else the application has asked for it.
    pub(crate) by_rule: bool,
    /// Who has called connect, or listen.
    pub(crate) caller: &'a Caller,
    /// The same as profiles see it; none: it is looked up.
    pub(crate) application: Option<&'a Application>,
    /// Where it connects to, or where it listens.
    pub(crate) at: SocketAddr,
    /// The cgroup by which the hooks have noted what was resolved: that of the socket.
    pub(crate) socket_cgroup: u64,
    /// The host name that the application has set; empty for none.
    pub(crate) hostname: &'a str,
}

/// What a log line says of a decision, whether it could be made or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct DecisionLabels {
    /// The rule by which it is TLS; none if the application has asked for it.
    pub(crate) rule: Option<String>,
    /// Whom the peer has to prove to be, as it was named; empty where that is not known, and for listeners.
    pub(crate) name: String,
}

/// With what a connection is made.
#[derive(Clone)]
pub(crate) struct Decision {
    /// The policy, with its files read.
    pub(crate) effective: Arc<Effective>,
    /// The rule by which it is TLS; none if the application has asked for it.
    pub(crate) rule: Option<RuleMatch>,
    /// Whom the peer has to prove to be; none for a listener's clients.
    pub(crate) name: Option<ServerName>,
}

impl Enforcement {
    /// Decides by which rule, under which policy and with whom. May read files of the configuration, and /proc.
    pub(crate) fn decide(&self, question: &Question<'_>) -> (DecisionLabels, Result<Decision, Error>) {
        let Question { direction, by_rule, caller, at, .. } = *question;
        let traffic = match direction {
            Direction::In => Traffic::IN_TCP,
            Direction::Out => Traffic::OUT_TCP,
        };
        let rule = by_rule.then(|| self.rules.find(caller.cgroup, traffic, at)).flatten();
        let mut labels =
            DecisionLabels { rule: rule.as_ref().map(|found| found.name().to_owned()), ..Default::default() };
        if by_rule && rule.is_none() {
            return (labels, Err(Error::NoRule));
        }
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

    /// Puts another configuration in force. On an error the last one stays, or some of it. Blocks.
    pub(crate) fn replace(&self, file: Arc<File>) -> Result<u64> {
        self.rules.replace(Arc::clone(&file))?;
        let limits = file.machine().limits;
        let generation = self.policies.replace(file)?;
        self.limits.replace(&limits);
        Ok(generation)
    }

    /// Writes what is in force to the hooks again, after another agent has written its own. Blocks.
    pub(crate) fn put_in_force_again(&self) -> Result<()> {
        let file = self.rules.file();
        self.rules.replace(Arc::clone(&file))?;
        self.policies.replace(file)?;
        Ok(())
    }

    fn terms(&self, question: &Question<'_>, rule: Option<RuleMatch>, name: Option<String>) -> Result<Decision, Error> {
        let name = name.map(|name| ServerName::parse(&name)).transpose()?;
        let effective = match question.application {
            Some(application) => self.policies.effective(application, rule.as_ref())?,
            None => self.policies.effective(&self.policies.application(question.caller)?, rule.as_ref())?,
        };
        Ok(Decision { effective, rule, name })
    }
}
