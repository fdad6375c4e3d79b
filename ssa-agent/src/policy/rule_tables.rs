//! Which rule decides on a connection, and the same as entries of the hooks' maps.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use ssa_common::rule::{ADDRESS_BITS, Action, AddressKey, DEPTH, Groups, PORT_BITS, PortKey, Traffic};

use super::{
    file::File,
    net::Net,
    pod::{Pods, is_pod},
    rule::Rule,
    selector::Selector,
};

/// The rule that a connection comes under, in the file that it is in.
#[derive(Clone)]
pub(crate) struct RuleMatch {
    /// Kept, so that a reload can't change what was decided.
    pub(crate) file: Arc<File>,
    /// Its place among the file's rules.
    pub(crate) index: usize,
}

impl RuleMatch {
    /// The rule itself.
    pub(crate) fn rule(&self) -> &Rule {
        &self.file.rules()[self.index]
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.rule().name.get_ref()
    }

    /// File and line at which it stands.
    pub(crate) fn place(&self) -> String {
        let line = self.file.rule_lines.get(self.index).copied().unwrap_or_default();
        format!("{}:{line}", self.file.path.display())
    }
}

/// Whether a cgroup is of a pod that nobody has told of.
fn unheard(cgroup: &Path, pods: &Pods) -> bool {
    cgroup.ancestors().any(|path| is_pod(path) && pods.of(path).is_none())
}

impl File {
    /// The rules for a cgroup, by index; by its path below the mount. None if that can't be known yet: it is of a pod that
    /// nobody has told of.
    pub(crate) fn rules_of(&self, cgroup: &Path, pods: &Pods) -> Option<Vec<usize>> {
        if self.rules.iter().any(|rule| rule.service().is_some_and(Selector::asks_for_pods)) && unheard(cgroup, pods) {
            return None;
        }
        let takes = |rule: &Rule| {
            rule.service().is_none_or(|service| cgroup.ancestors().any(|path| service.selects(path, pods)))
        };
        Some(self.rules.iter().enumerate().filter(|(_index, rule)| takes(rule)).map(|(index, _)| index).collect())
    }

    /// Whether a cgroup's path alone says which rules are for it, now and later.
    pub(crate) fn rules_go_by_path(&self) -> bool {
        self.rules.iter().filter_map(Rule::service).all(Selector::goes_by_path)
    }

    /// Whether a rule that is not for a cgroup of a service can be for one below it.
    pub(crate) fn may_rule_otherwise_below(&self, cgroup: &Path, pods: &Pods) -> bool {
        self.rules.iter().filter_map(Rule::service).any(|service| {
            service.may_select_below(cgroup) && !cgroup.ancestors().any(|path| service.selects(path, pods))
        })
    }

    /// Whether it can be told if a cgroup is to be attached: false for one of a pod that nobody has told of, where
    /// selectors ask for pods.
    pub(crate) fn knows_pod_of(&self, cgroup: &Path, pods: &Pods) -> bool {
        !self.asks_for_pods() || !unheard(cgroup, pods)
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
            let bits = rule.nets().filter(|net| net.has(addr)).map(|net| (net.bits, net.only_v6)).max();
            let port = at.port();
            let ports = rule.ports().iter().filter(|(low, high)| (*low..=*high).contains(&port));
            let width = ports.map(|(low, high)| high - low).min();
            bits.zip(width).map(|(bits, width)| ((bits, Reverse(width), rule.service().is_some(), *index), *index))
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
        // An entry for each prefix: two networks may share one. One for IPv4, where those of IPv6 alone end.
        let v4 = own.keys().any(|net| net.only_v6).then_some(Net::V4);
        let prefixes = own.keys().copied().chain(v4).map(|net| (net.addr, net.bits));
        for (addr, bits) in prefixes.collect::<BTreeSet<_>>() {
            let entry = Net { addr, bits, only_v6: false };
            // Those that it is in: found by shortening it.
            let mut groups = [0; DEPTH];
            let mut depth = 0;
            for bits in (0..=bits).rev() {
                let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
                for only_v6 in [true, false] {
                    let around = Net { addr: addr & mask, bits, only_v6 };
                    let Some(group) = own.get(&around).filter(|_group| around.has(entry)) else { continue };
                    let room = groups.get_mut(depth).ok_or_else(|| {
                        format!("rules for more than {DEPTH} networks, one in the other, are around one address")
                    })?;
                    *room = *group;
                    depth += 1;
                }
            }
            let key = AddressKey { set, addr: addr.to_be_bytes() };
            tables.addresses.push((ADDRESS_BITS + bits, key, Groups(groups)));
        }
        for (net, group) in &own {
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
                    .map(move |(low, high)| ((Reverse(high - low), rule.service().is_some(), *index), *low, *high))
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
    /// Entries of `RULE_ADDRESSES`; prefixes in bits.
    pub(crate) addresses: Vec<(u32, AddressKey, Groups)>,
    /// Entries of `RULE_PORTS`; prefixes in bits.
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
            Net { addr: u128::from_be_bytes(key.addr), bits: bits - ADDRESS_BITS, only_v6: false }.has(addr)
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

    /// `::/0` is no IPv4 address, and neither is any other network of IPv6 around `::ffff:0:0/96`.
    #[test]
    fn networks_of_ipv6_have_no_ipv4_addresses() {
        let rule = |name: &str, rest: &str| format!("[[rule]]\nname = \"{name}\"\ndirection = \"out\"\n{rest}\n");
        let tls = rule("tls", "hostname = \"a.test\"");
        let plain = |net: &str| rule("plain", &format!("address = \"{net}\"\nmode = \"plain\""));
        let (v4, v6, other) = ("192.0.2.1:443", "[2001:db8::1]:443", "[64:ff9b::1]:443");
        for (text, expected) in [
            (tls.clone() + &plain("::/0"), [Some(0), Some(1), Some(1)]),
            (plain("::/0") + &tls, [Some(1), Some(0), Some(0)]),
            (plain("::/0"), [None, Some(0), Some(0)]),
            (tls.clone() + &plain("::/3"), [Some(0), Some(0), Some(1)]),
            (tls.clone() + &plain("0.0.0.0/0"), [Some(1), Some(0), Some(0)]),
            (tls.clone() + &plain("::ffff:0:0/96"), [Some(1), Some(0), Some(0)]),
            (plain("::/0") + &rule("deny", "address = \"192.0.2.0/24\"\nmode = \"deny\""), [Some(1), Some(0), Some(0)]),
            (plain("::/0") + &tls + &rule("deny", "address = \"::/2\"\nmode = \"deny\""), [Some(1), Some(2), Some(2)]),
        ] {
            let file = file(&text);
            let all: Vec<usize> = (0..file.rules.len()).collect();
            let tables = file.tables(&all, 1, &mut 0).unwrap();
            let keys: BTreeSet<_> = tables.addresses.iter().map(|(bits, key, _groups)| (*bits, key.addr)).collect();
            assert_eq!(keys.len(), tables.addresses.len(), "one entry for each prefix");
            for (at, index) in [v4, v6, other].into_iter().zip(expected) {
                let at: SocketAddr = at.parse().unwrap();
                assert_eq!(file.ruling(&all, Traffic::OUT_TCP, at), index, "{at}\n{text}");
                let action = index.map(|index| file.rules[index].action());
                assert_eq!(looked_up(&tables, Traffic::OUT_TCP, at), action, "{at}\n{text}");
            }
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
