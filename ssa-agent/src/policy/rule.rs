//! `[[rule]]` of the configuration: what becomes of sockets that set no options of TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use ssa_common::rule::{Action, Traffic};
use toml::{Spanned, Value};

use super::{
    net::Net,
    policy::Policy,
    profile::Profile,
    sections::{Credentials, Revocation, Sessions, Time, Tls, Trust, refine},
    selector::Selector,
};
use crate::tls::ServerName;

/// What becomes of connections that a service's applications make, or of those that they accept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) name: Spanned<String>,
    direction: Direction,
    #[serde(default)]
    protocol: Protocol,
    /// Whose applications. None: those of all attached cgroups.
    service: Option<Selector>,
    /// Where to, or where they listen.
    #[serde(default)]
    address: Addresses,
    #[serde(default)]
    port: Ports,
    #[serde(default)]
    mode: Mode,
    /// Whom a peer must prove to be.
    hostname: Option<Spanned<String>>,
    /// Whom it must prove to be, if the application has resolved one of these, and no other of them, to its address.
    hostnames: Option<Vec<Spanned<Pattern>>>,
    /// What becomes of an application that speaks TLS itself.
    #[serde(default)]
    app_tls: AppTls,
    /// How the peer is asked for TLS, if it does not begin with it.
    starttls: Option<StartTls>,
    /// A profile whose sections hold, before the rule's own.
    profile: Option<Spanned<String>>,
    tls: Option<Tls>,
    trust: Option<Trust>,
    revocation: Option<Revocation>,
    sessions: Option<Sessions>,
    time: Option<Time>,
    credentials: Option<Credentials>,
}

/// Who begins a connection.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// A peer: the application has accepted.
    In,
    /// The application has connected.
    Out,
}

impl Direction {
    /// Its name in labels, logs and the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// A protocol that begins in plaintext and asks for TLS in band.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StartTls {
    /// RFC 9051, section 6.2.1.
    Imap,
    /// RFC 2595, section 4.
    Pop3,
    /// "SSL Session Encryption" in the protocol's description.
    Postgres,
    /// RFC 3207.
    Smtp,
}

/// What becomes of an application that speaks TLS itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum AppTls {
    /// It is reset: TLS in TLS is a mistake.
    #[default]
    Reject,
    /// Its TLS goes to the peer as it is. Nobody but the application verifies the peer.
    Passthrough,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// TLS, or no connection.
    #[default]
    Require,
    /// TLS, or plaintext if the other side speaks none.
    Prefer,
    /// No TLS: an exception from a wider rule.
    Plain,
    /// No connection.
    Deny,
}

/// The name that a peer must prove to have can't be told from what the application has resolved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NameError {
    /// None of the rule's names was resolved to the address.
    #[error("no name that the rule lists was resolved to this address by the application")]
    NotResolved,
    /// Several of them were.
    #[error("the application has resolved several names to this address: {}", .0.join(", "))]
    Several(Vec<String>),
}

/// A name, or `*.` and a name: all below it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match ServerName::parse(text.strip_prefix("*.").unwrap_or(&text)) {
            Ok(ServerName::Dns(_)) => Ok(Self(text.trim_end_matches('.').to_ascii_lowercase())),
            Ok(ServerName::Ip(_)) | Err(_) => {
                Err(format!("{text:?} is no name, and no pattern such as \"*.example.org\""))
            }
        }
    }
}

impl Pattern {
    fn takes(&self, name: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(end) => name.len() > end.len() && name.ends_with(end),
            None => name == self.0,
        }
    }
}

impl Mode {
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Require | Self::Prefer)
    }
}

/// One network, or a list of them; none for every address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Value")]
struct Addresses(Vec<IpNet>);

impl TryFrom<Value> for Addresses {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        each(value, |one| {
            let text = one.as_str().unwrap_or_default();
            let addr = text.parse::<IpAddr>().map(IpNet::from).ok();
            // What an IPv6 socket calls `::ffff:a.b.c.d` is a.b.c.d.
            let net = addr.map(|net| IpNet::from(net.addr().to_canonical())).or_else(|| text.parse().ok());
            net.map(|net: IpNet| net.trunc()).ok_or_else(|| {
                format!("{one} is no address, and no network such as \"10.0.0.0/8\" or \"2001:db8::/32\"")
            })
        })
        .map(Self)
    }
}

/// One port, a range of them, or a list of these; none for every port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Value")]
struct Ports(Vec<(u16, u16)>);

impl TryFrom<Value> for Ports {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        each(value, |one| {
            let number = |text: &str| text.trim().parse::<u16>().ok();
            let range = match one {
                Value::Integer(port) => u16::try_from(*port).ok().map(|port| (port, port)),
                Value::String(text) => match text.split_once('-') {
                    Some((low, high)) => number(low).zip(number(high)),
                    None => number(text).map(|port| (port, port)),
                },
                Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
            };
            range
                .filter(|(low, high)| low <= high)
                .ok_or_else(|| format!("{one} is no port from 0 to 65535, and no range such as \"8000-8999\""))
        })
        .map(Self)
    }
}

/// A value, or each of a list.
fn each<T>(value: Value, parse: impl Fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
    match value {
        Value::Array(list) if list.is_empty() => Err("the list is empty: leave the key away to mean all".to_owned()),
        Value::Array(list) => list.iter().map(parse).collect(),
        one @ (Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_)
        | Value::Table(_)) => Ok(vec![parse(&one)?]),
    }
}

impl Rule {
    /// What makes no sense.
    pub(super) fn check(&self, profiles: &[Profile], machine: Policy) -> Result<(), String> {
        let tls = self.mode.is_tls();
        let sections = [
            self.tls.is_some(),
            self.trust.is_some(),
            self.revocation.is_some(),
            self.sessions.is_some(),
            self.time.is_some(),
            self.credentials.is_some(),
            self.profile.is_some(),
        ];
        if !tls && sections.contains(&true) {
            return Err("a rule that is \"plain\" or that denies has no settings of TLS".to_owned());
        }
        if self.protocol == Protocol::Udp && (tls || self.direction == Direction::In) {
            return Err("UDP can only go out, with `mode = \"deny\"` or \"plain\"".to_owned());
        }
        match &self.hostname {
            Some(_) if !tls || self.direction == Direction::In => {
                return Err("`hostname` is for rules that go out and require TLS".to_owned());
            }
            Some(name) => drop(ServerName::parse(name.get_ref()).map_err(|error| format!("`hostname`: {error}"))?),
            None if tls && self.direction == Direction::Out && !self.wants_names() => {
                return Err("`hostname` is missing: the name that the peer must prove to have".to_owned());
            }
            None => {}
        }
        match &self.hostnames {
            Some(_) if !tls || self.direction == Direction::In || self.hostname.is_some() => {
                return Err("`hostnames` is for rules that go out and require TLS, instead of `hostname`".to_owned());
            }
            Some(patterns) if patterns.is_empty() => return Err("`hostnames` is empty".to_owned()),
            Some(_) | None => {}
        }
        if self.starttls.is_some() && (!tls || self.direction == Direction::In) {
            return Err("`starttls` is for rules that go out and require TLS".to_owned());
        }
        let passthrough = self.app_tls == AppTls::Passthrough;
        if passthrough && (self.mode != Mode::Require || self.direction == Direction::In || self.starttls.is_some()) {
            return Err(
                "`app_tls = \"passthrough\"` is for rules that go out and require TLS, without `starttls`".to_owned()
            );
        }
        if let Some(service) = &self.service {
            service.check()?;
        }
        if let Some(name) = &self.profile
            && !profiles.iter().any(|profile| profile.name.get_ref() == name.get_ref())
        {
            return Err(format!("there is no profile {:?}", name.get_ref()));
        }
        if self.revocation.as_ref().is_some_and(Revocation::is_soft) {
            return Err("`soft_fail` is for profiles only: give the rule a `profile` that has it".to_owned());
        }
        self.tls.iter().try_for_each(Tls::check).map_err(|wrong| wrong.what)?;
        let mut policy = machine;
        self.refine(profiles, &mut policy);
        policy.check().map_err(|(section, what)| format!("[rule.{section}] {what}"))?;
        if tls && self.direction == Direction::In && policy.credentials.chain.is_none() {
            return Err("a listener needs a certificate: give the rule `credentials`".to_owned());
        }
        Ok(())
    }

    /// Overrides what the rule's profile, and then the rule, have keys for.
    pub(super) fn refine(&self, profiles: &[Profile], policy: &mut Policy) {
        if let Some(name) = &self.profile
            && let Some(profile) = profiles.iter().find(|profile| profile.name.get_ref() == name.get_ref())
        {
            profile.refine(policy);
        }
        let of = |section: &Option<Tls>| section.clone().unwrap_or_default();
        refine(
            policy,
            &of(&self.tls),
            &self.trust.clone().unwrap_or_default(),
            &self.revocation.clone().unwrap_or_default(),
            &self.sessions.clone().unwrap_or_default(),
            &self.time.clone().unwrap_or_default(),
            &self.credentials.clone().unwrap_or_default(),
        );
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// In words, the name that the peer must prove to have.
    pub(crate) fn hostname(&self) -> String {
        let patterns = || self.hostnames.iter().flatten().map(|one| one.get_ref().0.as_str()).collect::<Vec<_>>();
        self.hostname
            .as_ref()
            .map_or_else(|| format!("what it has resolved of {}", patterns().join(", ")), |name| name.get_ref().clone())
    }

    /// Whether it goes by names that applications have resolved.
    pub(crate) fn wants_names(&self) -> bool {
        self.hostnames.is_some()
    }

    /// The name that the peer must prove to have, given those that the application has resolved to its address.
    pub(crate) fn name(&self, resolved: impl FnOnce() -> Vec<String>) -> Result<String, NameError> {
        if let Some(name) = &self.hostname {
            return Ok(name.get_ref().clone());
        }
        let listed = |name: &String| self.hostnames.iter().flatten().any(|pattern| pattern.get_ref().takes(name));
        let mut names: Vec<String> = resolved().into_iter().filter(listed).collect();
        match names.len() {
            1 => Ok(names.remove(0)),
            0 => Err(NameError::NotResolved),
            _ => Err(NameError::Several(names)),
        }
    }

    /// Whether an application that speaks TLS itself is left to do so.
    pub(crate) fn passes_app_tls(&self) -> bool {
        self.app_tls == AppTls::Passthrough
    }

    /// How the peer is asked for TLS.
    pub(crate) fn starttls(&self) -> Option<StartTls> {
        self.starttls
    }

    /// Whose applications it is for; none for those of all attached cgroups.
    pub(super) fn service(&self) -> Option<&Selector> {
        self.service.as_ref()
    }

    /// The [`Traffic`] that it is for.
    pub(super) fn kind(&self) -> Traffic {
        match (self.direction, self.protocol) {
            (Direction::Out, Protocol::Tcp) => Traffic::OUT_TCP,
            (Direction::Out, Protocol::Udp) => Traffic::OUT_UDP,
            (Direction::In, _) => Traffic::IN_TCP,
        }
    }

    /// What the hooks do with a connection under it ([`Action`]).
    pub(super) fn action(&self) -> Action {
        match self.mode {
            Mode::Require | Mode::Prefer => Action::TLS,
            Mode::Plain => Action::PLAIN,
            Mode::Deny => Action::DENY,
        }
    }

    /// A listener at every address listens at those of the rule, too.
    pub(super) fn nets(&self) -> impl Iterator<Item = Net> {
        let all = self.address.0.is_empty();
        let every = [Ipv4Addr::UNSPECIFIED.into(), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        let every = every.into_iter().filter(move |_addr| !all && self.direction == Direction::In).map(Net::one);
        self.address.0.iter().map(Net::of).chain(every).chain(all.then_some(Net::ALL))
    }

    /// Ranges of ports, both ends included.
    pub(super) fn ports(&self) -> &[(u16, u16)] {
        if self.port.0.is_empty() { &[(0, u16::MAX)] } else { &self.port.0 }
    }
}
