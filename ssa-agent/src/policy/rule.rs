//! `[[rule]]` of the configuration: what becomes of sockets that set no options of TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use ssa_common::rule::{Action, Traffic};
use toml::{Spanned, Value};

use super::{
    net::Net,
    policy::Policy,
    profile::Profile,
    sections::{CredentialsKeys, RevocationKeys, SessionsKeys, TimeKeys, TlsKeys, TrustKeys},
    selector::Selector,
};
use crate::tls::ServerName;

/// Rules are for applications that know nothing of TLS. A rule says what becomes of sockets on which no option was set: `mode` and
/// the keys after it. It is for connections or listeners that fit all of `direction`, `service`, `address`, `port` and `protocol`.
/// Of several that fit, the one with the longest prefix of the address decides, then that with the narrowest range of ports, then
/// one with a service, then the later.
///
/// A rule may have the sections above but `[limits]`, `[cache]`, `[control]` and `[monitor]`. A rule that serves a listener needs
/// credentials. An application that sets options goes by them, whatever rules say. While the agent is away, what rules would make
/// TLS is refused with `ENOTCONN`, and nothing reaches listeners. So is all that a cgroup does that the agent has not seen yet.
/// Multipath TCP can't be TLS, and is refused with `EPROTO`.
///
/// ```toml
/// [[rule]]
/// name = "cache"
/// service = { unit = "web.service" }
/// direction = "out"
/// address = "10.0.0.5"
/// port = 6379
/// hostname = "cache.internal"
/// [[rule]]
/// name = "front"
/// service = { unit = "web.service" }
/// direction = "in"
/// port = 8080
/// credentials = { chain = "/etc/ssa/web.pem", key = "/etc/ssa/web.key" }
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// The name of the rule in messages. It must be there, and no other rule has it.
    #[schemars(with = "String")]
    pub(crate) name: Spanned<String>,
    /// Which way the connections go. It must be there.
    direction: Direction,
    /// Whose applications, named as a service is: it need not be named above as well. None: those of all that is attached.
    service: Option<Selector>,
    /// An address or a network, or a list of them: where to, or where they listen. A listener at every address is one at each.
    /// None: every address. A network of IPv6, `::/0` too, has no IPv4 addresses.
    #[serde(default)]
    #[schemars(schema_with = "one_or_more_texts")]
    address: Addresses,
    /// A port, a range such as "8000-8999", or a list of these. None: every port.
    #[serde(default)]
    #[schemars(schema_with = "one_or_more_ports")]
    port: Ports,
    /// The transport protocol.
    #[serde(default)]
    protocol: Protocol,
    /// What becomes of the connection.
    #[serde(default)]
    mode: Mode,
    /// Out: the name that the peer must prove to have, or its address.
    #[schemars(with = "Option<String>")]
    hostname: Option<Spanned<String>>,
    /// Out, instead: a list of names, and of patterns such as "*.example.org". The peer must prove to have the one that the
    /// application has resolved to its address, as answers to the application's questions to name servers tell; for as long as they
    /// say, 5 s at least and 300 s at most. None, or two: no connection, but `EPROTO`.
    #[schemars(with = "Option<Vec<String>>")]
    hostnames: Option<Vec<Spanned<Pattern>>>,
    /// Out: what becomes of an application that speaks TLS itself.
    #[serde(default)]
    app_tls: AppTls,
    /// Out: how the peer is asked for TLS where a protocol begins in plaintext. The agent asks. The application need not, and is
    /// told that there is none if it does.
    starttls: Option<StartTls>,
    /// The name of a profile whose sections hold for the rule, besides those of the application and before the rule's own.
    #[schemars(with = "Option<String>")]
    profile: Option<Spanned<String>>,
    tls: Option<TlsKeys>,
    trust: Option<TrustKeys>,
    revocation: Option<RevocationKeys>,
    sessions: Option<SessionsKeys>,
    time: Option<TimeKeys>,
    credentials: Option<CredentialsKeys>,
}

/// What the JSON schema says of [`Addresses`].
fn one_or_more_texts(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "array"], "items": { "type": "string" }, "minItems": 1 })
}

/// What the JSON schema says of [`Ports`].
fn one_or_more_ports(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["integer", "string", "array"],
        "minimum": 0,
        "maximum": u16::MAX,
        "items": { "type": ["integer", "string"], "minimum": 0, "maximum": u16::MAX },
        "minItems": 1,
    })
}

/// Who begins a connection.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum Direction {
    /// What peers connect to: where applications listen.
    In,
    /// What applications connect to.
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

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Protocol {
    /// Streams.
    #[default]
    Tcp,
    /// Datagrams, which can only be denied or left alone.
    Udp,
}

/// A protocol that begins in plaintext and asks for TLS in band.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum StartTls {
    /// IMAP (RFC 9051, section 6.2.1).
    Imap,
    /// POP3 (RFC 2595, section 4).
    Pop3,
    /// PostgreSQL ("SSL Session Encryption" in the description of its protocol).
    Postgres,
    /// SMTP (RFC 3207).
    Smtp,
}

/// What becomes of an application that speaks TLS itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum AppTls {
    /// The application is reset, as TLS in TLS is a mistake.
    #[default]
    Reject,
    /// Its TLS goes to the peer as it is, and nobody but the application verifies the peer. What does not begin with a ClientHello
    /// is given TLS as ever. The application's connect then succeeds before the handshake, and the connection is reset if that
    /// fails. A peer that speaks first is heard after a second.
    Passthrough,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum Mode {
    /// TLS, or no connection.
    #[default]
    Require,
    /// TLS, or PLAINTEXT if the other side does not answer as TLS, which anybody on the way can bring about. Each such connection
    /// is logged, and the metrics count it by the version "plaintext". A client must speak first, then.
    Prefer,
    /// The socket is left alone: an exception from a wider rule.
    Plain,
    /// No connection, but `EACCES`.
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
    /// Whether connections are to be TLS, at least where the peer speaks it.
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
        if self.revocation.as_ref().is_some_and(RevocationKeys::is_soft) {
            return Err("`soft_fail` is for profiles only: give the rule a `profile` that has it".to_owned());
        }
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
        policy.refine(
            self.tls.as_ref().unwrap_or(&TlsKeys::default()),
            self.trust.as_ref().unwrap_or(&TrustKeys::default()),
            self.revocation.as_ref().unwrap_or(&RevocationKeys::default()),
            self.sessions.as_ref().unwrap_or(&SessionsKeys::default()),
            self.time.as_ref().unwrap_or(&TimeKeys::default()),
            self.credentials.as_ref().unwrap_or(&CredentialsKeys::default()),
        );
    }

    /// What becomes of a socket that it is for, in words.
    pub(crate) fn outcome(&self, traffic: Traffic) -> String {
        match self.mode() {
            Mode::Require if traffic == Traffic::IN_TCP => "served as TLS".to_owned(),
            Mode::Prefer if traffic == Traffic::IN_TCP => {
                "served as TLS, or as PLAINTEXT to who speaks none".to_owned()
            }
            Mode::Prefer => format!("TLS to {}, or PLAINTEXT if the peer speaks no TLS", self.hostname()),
            Mode::Require if self.passes_app_tls() => {
                format!("TLS to {}, or the application's own TLS, or no connection", self.hostname())
            }
            Mode::Require => format!("TLS to {}, or no connection", self.hostname()),
            Mode::Plain => "left alone".to_owned(),
            Mode::Deny => "refused with EACCES".to_owned(),
        }
    }

    /// What becomes of the connections that it is for.
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
