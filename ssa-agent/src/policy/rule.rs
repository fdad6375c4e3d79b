//! `[[rule]]` of the configuration: what becomes of sockets that set no options of TLS.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use ipnet::IpNet;
use serde::Deserialize;
use ssa_common::rule::{ADDRESS_BITS, Action, AddressKey, DEPTH, Groups, PORT_BITS, PortKey, Traffic};
use toml::{Spanned, Value};

use super::{
    file::{Credentials, File, Revocation, Sessions, Time, Tls, Trust, refine},
    policy::Policy,
    selector::Service,
};
use crate::{
    outbound::starttls,
    services::pods::{self, Pods},
    tls::server_name::ServerName,
};

/// What becomes of connections that a service's programs make, or of those that they accept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) name: Spanned<String>,
    direction: Direction,
    #[serde(default)]
    protocol: Protocol,
    /// Whose programs. None: those of all attached cgroups.
    service: Option<Service>,
    /// Where to, or where they listen.
    #[serde(default)]
    address: Addresses,
    #[serde(default)]
    port: Ports,
    #[serde(default)]
    mode: Mode,
    /// Whom a peer must prove to be.
    hostname: Option<Spanned<String>>,
    /// Whom it must prove to be, if the program has resolved one of these, and no other of them, to its address.
    hostnames: Option<Vec<Spanned<Pattern>>>,
    /// What becomes of a program that speaks TLS itself.
    #[serde(default)]
    own_tls: OwnTls,
    /// How the peer is asked for TLS, if it does not begin with it.
    starttls: Option<starttls::Protocol>,
    /// A profile whose sections hold, before the rule's own.
    profile: Option<Spanned<String>>,
    tls: Option<Tls>,
    trust: Option<Trust>,
    revocation: Option<Revocation>,
    sessions: Option<Sessions>,
    time: Option<Time>,
    credentials: Option<Credentials>,
}

/// Who begins the connection.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Direction {
    In,
    Out,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// What becomes of a program that speaks TLS itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum OwnTls {
    /// It is reset: TLS in TLS is a mistake.
    #[default]
    Refuse,
    /// Its TLS goes to the peer as it is. Nobody but the program verifies the peer.
    Pass,
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

/// A network as the hooks see addresses: IPv6, or v4-mapped.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Net {
    addr: u128,
    bits: u32,
}

impl Net {
    const ALL: Self = Self { addr: 0, bits: 0 };

    fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(v4) => Self { addr: v4.addr().to_ipv6_mapped().to_bits(), bits: 96 + u32::from(v4.prefix_len()) },
            IpNet::V6(v6) => Self { addr: v6.addr().to_bits(), bits: u32::from(v6.prefix_len()) },
        }
    }

    fn one(addr: IpAddr) -> Self {
        Self::of(&IpNet::from(addr))
    }

    fn has(self, other: Self) -> bool {
        self.bits <= other.bits && (self.bits == 0 || (self.addr ^ other.addr) >> (128 - self.bits) == 0)
    }
}

impl Rule {
    /// What makes no sense.
    pub(super) fn check(&self, file: &File) -> Result<(), String> {
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
        let pass = self.own_tls == OwnTls::Pass;
        if pass && (self.mode != Mode::Require || self.direction == Direction::In || self.starttls.is_some()) {
            return Err("`own_tls = \"pass\"` is for rules that go out and require TLS, without `starttls`".to_owned());
        }
        if let Some(service) = &self.service {
            service.check()?;
        }
        if let Some(name) = &self.profile
            && !file.profiles.iter().any(|profile| profile.name.get_ref() == name.get_ref())
        {
            return Err(format!("there is no profile {:?}", name.get_ref()));
        }
        if self.revocation.as_ref().is_some_and(Revocation::is_soft) {
            return Err("`soft_fail` is for profiles only: give the rule a `profile` that has it".to_owned());
        }
        self.tls.iter().try_for_each(Tls::check).map_err(|wrong| wrong.what)?;
        let mut policy = file.machine();
        self.refine(file, &mut policy);
        policy.check().map_err(|(section, what)| format!("[rule.{section}] {what}"))?;
        if tls && self.direction == Direction::In && policy.credentials.chain.is_none() {
            return Err("a listener needs a certificate: give the rule `credentials`".to_owned());
        }
        Ok(())
    }

    /// Overrides what the rule's profile, and then the rule, have keys for.
    pub(super) fn refine(&self, file: &File, policy: &mut Policy) {
        if let Some(name) = &self.profile
            && let Some(profile) = file.profiles.iter().find(|profile| profile.name.get_ref() == name.get_ref())
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

    /// Whether it goes by names that programs have resolved.
    pub(crate) fn wants_names(&self) -> bool {
        self.hostnames.is_some()
    }

    /// The name that the peer must prove to have, given those that the program has resolved to its address.
    pub(crate) fn name(&self, resolved: impl FnOnce() -> Vec<String>) -> Result<String, String> {
        if let Some(name) = &self.hostname {
            return Ok(name.get_ref().clone());
        }
        let listed = |name: &String| self.hostnames.iter().flatten().any(|pattern| pattern.get_ref().takes(name));
        let mut names: Vec<String> = resolved().into_iter().filter(listed).collect();
        match names.len() {
            1 => Ok(names.remove(0)),
            0 => Err("no name that the rule lists was resolved to this address by the program".to_owned()),
            _ => Err(format!("the program has resolved several names to this address: {}", names.join(", "))),
        }
    }

    /// Whether a program that speaks TLS itself is left to do so.
    pub(crate) fn passes_own_tls(&self) -> bool {
        self.own_tls == OwnTls::Pass
    }

    /// How the peer is asked for TLS.
    pub(crate) fn starttls(&self) -> Option<starttls::Protocol> {
        self.starttls
    }

    pub(super) fn service(&self) -> Option<&Service> {
        self.service.as_ref()
    }

    /// The [`Traffic`] that it is for.
    fn kind(&self) -> Traffic {
        match (self.direction, self.protocol) {
            (Direction::Out, Protocol::Tcp) => Traffic::OUT_TCP,
            (Direction::Out, Protocol::Udp) => Traffic::OUT_UDP,
            (Direction::In, _) => Traffic::IN_TCP,
        }
    }

    fn action(&self) -> Action {
        match self.mode {
            Mode::Require | Mode::Prefer => Action::TLS,
            Mode::Plain => Action::PLAIN,
            Mode::Deny => Action::DENY,
        }
    }

    /// A listener at every address listens at those of the rule, too.
    fn nets(&self) -> impl Iterator<Item = Net> {
        let all = self.address.0.is_empty();
        let every = [Ipv4Addr::UNSPECIFIED.into(), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        let every = every.into_iter().filter(move |_addr| !all && self.direction == Direction::In).map(Net::one);
        self.address.0.iter().map(Net::of).chain(every).chain(all.then_some(Net::ALL))
    }

    fn ports(&self) -> &[(u16, u16)] {
        if self.port.0.is_empty() { &[(0, u16::MAX)] } else { &self.port.0 }
    }
}

impl File {
    /// The rules for a cgroup, by index; by its path below the mount. None if that can't be known yet: it is of a pod that
    /// nobody has told of.
    pub(crate) fn rules_of(&self, cgroup: &Path, pods: &Pods) -> Option<Vec<usize>> {
        let asks_for_pods = self.rules.iter().any(|rule| rule.service.as_ref().is_some_and(Service::asks_for_pods));
        let unheard = |path: &&Path| pods::is_pod(path) && pods.of(path).is_none();
        if asks_for_pods && cgroup.ancestors().any(|path| unheard(&path)) {
            return None;
        }
        let takes = |rule: &Rule| {
            rule.service.as_ref().is_none_or(|service| cgroup.ancestors().any(|path| service.takes(path, pods)))
        };
        Some(self.rules.iter().enumerate().filter(|(_index, rule)| takes(rule)).map(|(index, _)| index).collect())
    }

    /// Whether a cgroup's path alone says which rules are for it, now and later.
    pub(crate) fn rules_go_by_path(&self) -> bool {
        self.rules.iter().filter_map(Rule::service).all(Service::goes_by_path)
    }

    /// Whether a rule that is not for a cgroup can be for one below it.
    pub(crate) fn may_rule_below(&self, cgroup: &Path) -> bool {
        self.rules.iter().any(|rule| rule.service.as_ref().is_none_or(|service| service.may_take_below(cgroup)))
    }

    /// The rule of these that decides, as the hooks find it.
    pub(crate) fn ruling(&self, rules: &[usize], kind: Traffic, at: SocketAddr) -> Option<usize> {
        let ip = match at.ip().to_canonical() {
            // Who connects to no address at all, connects to this machine.
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) if kind != Traffic::IN_TCP => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if kind != Traffic::IN_TCP => Ipv6Addr::LOCALHOST.into(),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        let addr = Net::one(ip);
        let fitting = rules.iter().filter(|index| self.rules[**index].kind() == kind).flat_map(|index| {
            let rule = &self.rules[*index];
            let bits = rule.nets().filter(|net| net.has(addr)).map(|net| net.bits).max();
            let port = at.port();
            let ports = rule.ports().iter().filter(|(low, high)| (*low..=*high).contains(&port));
            let width = ports.map(|(low, high)| high - low).min();
            bits.zip(width).map(|(bits, width)| ((bits, Reverse(width), rule.service.is_some(), *index), *index))
        });
        fitting.max().map(|(_rank, index)| index)
    }

    /// What the hooks look up for a set of rules. `group` is counted on for each group of it.
    pub(crate) fn tables(&self, rules: &[usize], set: u32, group: &mut u32) -> Result<Tables, String> {
        let nets: BTreeSet<Net> = rules.iter().flat_map(|index| self.rules[*index].nets()).collect();
        let mut own: BTreeMap<Net, u32> = BTreeMap::new();
        for net in nets {
            *group += 1;
            own.insert(net, *group);
        }
        let mut by_net: BTreeMap<Net, Vec<usize>> = BTreeMap::new();
        for index in rules {
            self.rules[*index].nets().for_each(|net| by_net.entry(net).or_default().push(*index));
        }
        let mut tables = Tables::default();
        for (net, group) in &own {
            // Those that it is in: found by shortening it.
            let mut groups = [0; DEPTH];
            let mut depth = 0;
            for bits in (0..=net.bits).rev() {
                let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
                let Some(around) = own.get(&Net { addr: net.addr & mask, bits }) else { continue };
                let room = groups.get_mut(depth).ok_or_else(|| {
                    format!("rules for more than {DEPTH} networks, one in the other, are around one address")
                })?;
                *room = *around;
                depth += 1;
            }
            let key = AddressKey { set, addr: net.addr.to_be_bytes() };
            tables.addresses.push((ADDRESS_BITS + net.bits, key, Groups(groups)));
            for kind in [Traffic::OUT_TCP, Traffic::OUT_UDP, Traffic::IN_TCP] {
                self.ports(&by_net[net], kind, *group, &mut tables);
            }
        }
        Ok(tables)
    }

    /// Of the rules of one kind for one network: which port is whose, as prefixes.
    fn ports(&self, rules: &[usize], kind: Traffic, group: u32, tables: &mut Tables) {
        let mut ranges: Vec<_> = rules
            .iter()
            .filter(|index| self.rules[**index].kind() == kind)
            .flat_map(|index| {
                let rule = &self.rules[*index];
                rule.ports()
                    .iter()
                    .map(move |(low, high)| ((Reverse(high - low), rule.service.is_some(), *index), *low, *high))
            })
            .collect();
        // The most specific last: it is painted over the others.
        ranges.sort_unstable();
        let ends = ranges.iter().flat_map(|(_rank, low, high)| [u32::from(*low), u32::from(*high) + 1]);
        let ends: Vec<u32> = ends.collect::<BTreeSet<_>>().into_iter().collect();
        let mut painted = vec![None; ends.len()];
        for ((_, _, index), low, high) in ranges {
            let from = ends.partition_point(|end| *end < u32::from(low));
            let to = ends.partition_point(|end| *end <= u32::from(high));
            painted[from..to].fill(Some(self.rules[index].action()));
        }
        for (at, action) in painted.iter().enumerate() {
            let (Some(action), Some(end)) = (action, ends.get(at + 1)) else { continue };
            for (port, bits) in prefixes(ends[at], *end) {
                let key = PortKey { group, traffic: kind, reserved: 0, port: port.to_be_bytes() };
                tables.ports.push((PORT_BITS + bits, key, *action));
            }
        }
    }
}

/// Entries of the hooks' maps, each with the length of its prefix.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) addresses: Vec<(u32, AddressKey, Groups)>,
    pub(crate) ports: Vec<(u32, PortKey, Action)>,
}

/// A range of ports, without its end, as prefixes of 16 bits.
fn prefixes(mut from: u32, to: u32) -> Vec<(u16, u32)> {
    let mut prefixes = Vec::new();
    while from < to {
        let mut size = 1 << from.trailing_zeros().min(16);
        while from + size > to {
            size /= 2;
        }
        prefixes.push((u16::try_from(from).unwrap_or(u16::MAX), 16 - size.trailing_zeros()));
        from += size;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File::parse(text).map_err(|wrong| wrong.what).unwrap()
    }

    /// As the hooks do it.
    fn looked_up(tables: &Tables, kind: Traffic, at: SocketAddr) -> Option<Action> {
        let addr = Net::one(at.ip());
        let fits = |(bits, key, _groups): &&(u32, AddressKey, Groups)| {
            Net { addr: u128::from_be_bytes(key.addr), bits: bits - ADDRESS_BITS }.has(addr)
        };
        let (_bits, _key, groups) = tables.addresses.iter().filter(fits).max_by_key(|(bits, ..)| *bits)?;
        groups.0.iter().take_while(|group| **group != 0).find_map(|group| {
            let fits = |(bits, key, _action): &&(u32, PortKey, Action)| {
                let free = PORT_BITS + 16 - bits;
                key.group == *group
                    && key.traffic == kind
                    && u32::from(u16::from_be_bytes(key.port)) >> free == u32::from(at.port()) >> free
            };
            tables.ports.iter().filter(fits).max_by_key(|(bits, ..)| *bits).map(|(_bits, _key, action)| *action)
        })
    }

    const RULES: &str = r#"
        [[rule]]
        name = "nothing leaves"
        direction = "out"
        mode = "deny"
        [[rule]]
        name = "but to our network"
        direction = "out"
        address = ["10.0.0.0/8", "2001:db8::/32"]
        mode = "plain"
        [[rule]]
        name = "where high ports are TLS"
        direction = "out"
        address = "10.0.0.0/8"
        port = ["8000-8999", 6379]
        hostname = "a.test"
        [[rule]]
        name = "and one is not"
        direction = "out"
        address = "10.0.0.0/8"
        port = 8443
        mode = "plain"
        [[rule]]
        name = "one host"
        direction = "out"
        address = "10.1.2.3"
        port = 443
        mode = "deny"
    "#;

    #[test]
    fn most_specific_rule_wins_in_both_ways_of_finding_it() {
        let file = file(RULES);
        let all: Vec<usize> = (0..file.rules.len()).collect();
        let tables = file.tables(&all, 1, &mut 0).unwrap();
        for (at, index) in [
            ("192.0.2.1:80", 0),
            ("10.9.9.9:80", 1),
            ("[2001:db8::1]:8100", 1),
            ("[2001:db9::1]:8100", 0),
            ("10.9.9.9:8000", 2),
            ("10.9.9.9:8999", 2),
            ("10.9.9.9:9000", 1),
            ("10.9.9.9:7999", 1),
            ("10.9.9.9:6379", 2),
            ("10.9.9.9:8443", 3),
            ("10.1.2.3:443", 4),
            ("10.1.2.3:8443", 3),
            ("10.1.2.3:80", 1),
        ] {
            let at: SocketAddr = at.parse().unwrap();
            let found = file.ruling(&all, Traffic::OUT_TCP, at);
            assert_eq!(found, Some(index), "{at}");
            assert_eq!(looked_up(&tables, Traffic::OUT_TCP, at), Some(file.rules[index].action()), "{at}");
            assert_eq!(file.ruling(&all, Traffic::IN_TCP, at), None);
            assert_eq!(looked_up(&tables, Traffic::IN_TCP, at), None);
        }
    }

    #[test]
    fn ranges_are_cut_into_prefixes_without_gaps() {
        for (low, high) in [(0_u32, 65535_u32), (1, 65534), (8000, 8999), (80, 80), (65535, 65535), (0, 0)] {
            let mut at = low;
            for (port, bits) in prefixes(low, high + 1) {
                assert_eq!(u32::from(port), at);
                at += 1 << (16 - bits);
            }
            assert_eq!(at, high + 1);
        }
        assert!(prefixes(1, 65535).len() <= 30);
    }

    #[test]
    fn listener_at_every_address_is_one_at_the_rules_address() {
        let file = file(
            "[credentials]\nchain = \"/c\"\nkey = \"/k\"\n[[rule]]\nname = \"web\"\ndirection = \"in\"\n\
                         address = \"192.0.2.1\"\nport = 8080",
        );
        let tables = file.tables(&[0], 1, &mut 0).unwrap();
        for (at, is) in [
            ("192.0.2.1:8080", true),
            ("0.0.0.0:8080", true),
            ("[::]:8080", true),
            ("0.0.0.0:80", false),
            ("192.0.2.2:8080", false),
        ] {
            let at = at.parse().unwrap();
            assert_eq!(file.ruling(&[0], Traffic::IN_TCP, at).is_some(), is, "{at}");
            assert_eq!(looked_up(&tables, Traffic::IN_TCP, at).is_some(), is, "{at}");
        }
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for (rule, part) in [
            ("direction = \"out\"", "`hostname` is missing"),
            ("direction = \"out\"\nhostname = \".test\"", "neither a host name"),
            ("direction = \"in\"", "needs a certificate"),
            ("direction = \"in\"\nhostname = \"a\"", "`hostname` is for"),
            ("direction = \"out\"\nmode = \"deny\"\nhostname = \"a\"", "`hostname` is for"),
            ("direction = \"out\"\nmode = \"deny\"\nstarttls = \"smtp\"", "`starttls` is for"),
            ("direction = \"out\"\nhostname = \"a\"\nstarttls = \"ftp\"", "unknown variant"),
            ("direction = \"out\"\nprotocol = \"udp\"\nhostname = \"a\"", "UDP"),
            ("direction = \"out\"\nmode = \"plain\"\ntls.alpn = [\"h2\"]", "settings of TLS"),
            ("direction = \"out\"\nhostname = \"a\"\nprofile = \"x\"", "no profile"),
            ("direction = \"out\"\nmode = \"deny\"\nport = \"9-8\"", "no port"),
            ("direction = \"out\"\nmode = \"deny\"\nport = 65536", "no port"),
            ("direction = \"out\"\nmode = \"deny\"\nport = []", "empty"),
            ("direction = \"out\"\nmode = \"deny\"\naddress = \"10.0.0.0/33\"", "no address"),
            ("direction = \"out\"\nmode = \"deny\"\nservice = { unit = \"web\" }", "whole name"),
            ("direction = \"out\"\nmode = \"maybe\"", "unknown variant"),
        ] {
            let wrong = File::parse(&format!("[[rule]]\nname = \"r\"\n{rule}")).map(drop).unwrap_err();
            assert!(wrong.what.contains(part), "{rule}: {}", wrong.what);
            assert!(wrong.at.is_some(), "{rule}");
        }
    }
}
