//! Capacities and lengths, each with its unit and reason.

/// Longest value of an option, in bytes: what a hook of setsockopt(2) can see (one page).
pub const OPTION_BYTES: usize = 4096;

/// Room for a host name with its NUL, in bytes. RFC 1035 allows 253 characters.
pub const HOSTNAME_BYTES: usize = 256;

/// Longest host name that is accepted, in characters (RFC 1035, section 2.3.4, as text).
pub const HOSTNAME_MAX: usize = 253;

/// Longest label of a host name, in characters (RFC 1035, section 2.3.4).
pub const LABEL_MAX: u32 = 63;

/// Longest text of `TLS_ERROR` with its NUL, in bytes (the option's contract).
pub const ERROR_BYTES: usize = 256;

/// Room for the headers of a SYN, in bytes: IPv6 with 40 bytes of extensions, and the longest TCP
/// header (60), rounded up.
pub const SYN_BYTES: usize = 160;

/// Capacity of the ring buffer `EVENTS`, in bytes: 2,000 held connects at once. A power of two
/// and of pages.
pub const EVENTS_BYTES: usize = 1 << 20;

/// Capacity of the queue `IDS`: socket ids that wait to be taken. The agent refills after each batch of events.
pub const IDS_CAPACITY: usize = 1 << 14;

/// Sockets, contexts and connections that can live at once, host-wide. Hash maps without
/// preallocation: what is not used costs nothing.
pub const SOCKETS_CAPACITY: usize = 1 << 17;

/// Capacity of the map `BLOBS`: option values that wait for the agent to take them (paths and PEM texts, 4 KiB each).
pub const BLOBS_CAPACITY: usize = 1 << 10;

/// Paths and PEM texts that one context may have set, one after the other.
pub const BLOB_SETS_MAX: u32 = 64;

/// Capacity of the map `PATHS`: paths that are kept for a restarted agent.
pub const PATHS_CAPACITY: usize = 1 << 17;

/// Capacity of the maps `CERTIFICATES` and `CHAINS`: those of peers that are known at once, 4.5 KiB each.
pub const CERTIFICATES_CAPACITY: usize = 1 << 14;

/// Capacity of the map `SCRATCH`: lists of cipher suites that are being set or read at once.
pub const SCRATCH_CAPACITY: usize = 1 << 10;

/// Capacity of the map `BARRED`: sockets that had no room for their state, and are open.
pub const BARRED_CAPACITY: usize = 1 << 16;

/// Capacity of the map `LISTENING`: TLS sockets that listen at once.
pub const LISTENERS_CAPACITY: usize = 1 << 14;

/// Capacity of the map `LEGS`: legs of the agent to applications' listeners that are on their way at once.
pub const LEGS_CAPACITY: usize = 1 << 16;

/// Capacity of the map `SOCKET_CALLS`: threads that are in a `socket(2)` with `IPPROTO_TLS` at once, and those that
/// ended there.
pub const SOCKET_CALLS_CAPACITY: usize = 1 << 16;

/// Capacity of the ring buffer `PARKED`, in bytes: 5,000 SYNs. A power of two and of pages.
pub const PARKED_BYTES: usize = 1 << 20;

/// SYNs that are parked for one listener: its share of `PARKED`. Later ones are dropped, and come again by themselves.
pub const PARKED_MAX: u32 = 2048;

/// Capacity of the maps by cgroup: all cgroups of the machine, and those that are gone and may have sockets.
pub const CGROUPS_CAPACITY: usize = 1 << 17;

/// Capacity of the maps `USERS` and `USER_CLASSES`: users that have TLS sockets, or a class of their own.
pub const USERS_CAPACITY: usize = 1 << 16;

/// Capacity of the map `POLICIES`: classes of cgroups times classes of users.
pub const POLICIES_CAPACITY: usize = 1 << 12;

/// Longest datagram or segment of a name server that is looked at, in bytes: what resolvers allow over UDP (EDNS, RFC
/// 6891) is less.
pub const DATAGRAM_BYTES: usize = 4096;
const _: () = assert!(DATAGRAM_BYTES.is_power_of_two());

/// Capacity of the ring buffer `DNS_MESSAGES`, in bytes: 250 of the longest datagrams. A power of two and of pages.
pub const DNS_BYTES: usize = 1 << 20;

/// Capacity of the map `RULE_ADDRESSES`: networks that rules are for, in all sets, each with those that it is in.
pub const RULE_ADDRESSES_CAPACITY: usize = 1 << 17;

/// Capacity of the map `RULE_PORTS`: prefixes of ports that rules are for. A range of ports has 30 at most.
pub const RULE_PORTS_CAPACITY: usize = 1 << 18;

/// First two bytes of the virtual addresses, 127.205.0.0/16: destinations of held connects over IPv4. Nobody binds one;
/// `sk_lookup` gives their connections to the agent.
pub const VIRTUAL_PREFIX: [u8; 2] = [127, 205];

/// First two bytes of the addresses, 127.204.0.0/16, from which the agent connects to TLS listeners over IPv4. One
/// address has about 28,000 ports.
pub const LEG_PREFIX: [u8; 2] = [127, 204];

/// Both loopback networks in one, as error messages and documents name it: [`LEG_PREFIX`] and [`VIRTUAL_PREFIX`].
pub const LOOPBACK_NETWORK: &str = "127.204.0.0/15";

/// Destination port of held connects over IPv4, and the lowest over IPv6: 7 (echo, RFC 862). Any port works on
/// 127.205.0.0/16, where nobody binds; below 1024 an unprivileged process could not bind it either.
pub const VIRTUAL_PORT: u16 = 7;

/// Counters that the hooks keep, by index of the map `COUNTERS`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Counter {
    /// TLS sockets by their own options that are open now.
    Sockets = 0,
    /// Events that found the ring buffer full.
    EventsLost = 1,
    /// Sets and connects that found a map full, or no id left.
    NoRoom = 2,
    /// SYNs held back, with those sent again.
    SynsHeld = 3,
    /// Packets that a held or listening TLS socket was kept from.
    PacketsDropped = 4,
    /// TLS sockets that have an id and are open now, by their own options or by a rule. Sockets that came out of a
    /// listener are in neither.
    Opened = 5,
    /// Messages from and to name servers that found their ring buffer full.
    NamesLost = 6,
}

impl Counter {
    /// All counters, with the names under which metrics and the control socket show them.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Sockets, "sockets_open"),
        (Self::EventsLost, "events_lost"),
        (Self::NoRoom, "no_room"),
        (Self::SynsHeld, "syns_held"),
        (Self::PacketsDropped, "packets_dropped"),
        (Self::Opened, "sockets_with_id"),
        (Self::NamesLost, "names_lost"),
    ];
}

/// Slots of the map `COUNTERS`.
pub const COUNTERS: usize = 8;

/// SYNs that are sent again before the kernel itself gives a held connect up with `ETIMEDOUT`,
/// which only happens if the agent hangs: longer than its own limits to dial and to shake hands.
pub const SYN_RETRIES: i32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_network_is_that_of_both_prefixes() {
        let [low, high] = [LEG_PREFIX, VIRTUAL_PREFIX].map(u16::from_be_bytes);
        assert_eq!((low & 1, low | 1), (0, high));
        assert_eq!(LOOPBACK_NETWORK, format!("{}.{}.0.0/15", LEG_PREFIX[0], LEG_PREFIX[1]));
    }
}
