//! The state of one TLS socket, kept in the kernel with the socket itself (sk_storage).

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{limits::HOSTNAME_BYTES, peer_option::SLOTS, phase::Outcome, pod};

/// An IP address and port. IPv4 addresses are kept v4-mapped (`::ffff:a.b.c.d`).
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Endpoint {
    /// IPv6 or v4-mapped address, network byte order.
    pub addr: [u8; 16],
    /// Port, host byte order.
    pub port: u16,
    /// Reserved; always zero.
    pub reserved: u16,
    /// Scope of a link-local address (interface index); zero otherwise.
    pub scope: u32,
}

impl Endpoint {
    /// An endpoint of zeros: no address, no port.
    pub const UNSPECIFIED: Self = Self { addr: [0; 16], port: 0, reserved: 0, scope: 0 };
}

/// Bytes of an IP address as they cross: IPv6, or IPv4 v4-mapped; network byte order.
pub const fn mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

impl From<SocketAddr> for Endpoint {
    /// The endpoint of a socket address. The scope is not taken along: it stays zero.
    fn from(addr: SocketAddr) -> Self {
        Self { addr: mapped(addr.ip()), port: addr.port(), reserved: 0, scope: 0 }
    }
}

impl From<Endpoint> for SocketAddr {
    /// The socket address of an endpoint: IPv4 if it is v4-mapped, without the scope.
    fn from(endpoint: Endpoint) -> Self {
        Self::new(Ipv6Addr::from(endpoint.addr).to_canonical(), endpoint.port)
    }
}

/// A host name: `len` bytes of text and a NUL. A `len` of zero means that none is set.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct HostName {
    /// Text and its NUL; bytes beyond are an older text's.
    pub bytes: [u8; HOSTNAME_BYTES],
    /// Length without the NUL, in bytes.
    pub len: u32,
    /// Reserved; always zero.
    pub reserved: u32,
}

impl HostName {
    /// Text of the name; none if none is set, or if it is no UTF-8, which the hooks don't store.
    pub fn as_str(&self) -> Option<&str> {
        let bytes = self.bytes.get(..self.len as usize)?;
        core::str::from_utf8(bytes).ok().filter(|text| !text.is_empty())
    }
}

/// Process that calls: taken in the hook, at the call, in the initial namespaces' numbers.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Caller {
    /// Real user id (`bpf_get_current_uid_gid`).
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Process id (the kernel's tgid).
    pub tgid: u32,
    /// Thread id (the kernel's pid).
    pub tid: u32,
    /// Cookie of the socket's network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// Service of the caller: the inode of the served cgroup ([`crate::cgroup::Cgroup::service`]). That of the caller's
    /// own cgroup while the agent has not decided on it; the agent looks further then.
    pub service: u64,
    /// Inode of the caller's own cgroup (`bpf_get_current_cgroup_id`).
    pub cgroup: u64,
}

/// State of a TLS socket: the value of the map `SOCKETS`. Written by the hooks only, under the socket's lock.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Socket {
    /// Random and unique, from the agent's pool. Zero: the agent could not be asked; every connect
    /// fails until a later set finds it.
    pub id: u64,
    /// Id of the context in use: the socket's own (equal to `id`) or an adopted one.
    pub context: u64,
    /// Service in which it was made ([`Caller::service`]).
    pub service: u64,
    /// Process that made it a TLS socket, and then that called `connect` last.
    pub caller: Caller,
    /// Destination that the application gave to `connect` last.
    pub orig_dst: Endpoint,
    /// Address that the socket was bound to before it connected; unspecified if it was not.
    pub bound: Endpoint,
    /// Count of connects; zero before the first.
    pub attempt: u32,
    /// Outcome of the last attempt.
    pub outcome: Outcome,
    /// The last refusal by a hook ([`crate::reason::Reason`]), or zero.
    pub reason: u32,
    /// AF_INET or AF_INET6.
    pub family: u32,
    /// Real user id of the process that made it a TLS socket: the user for whom it is counted.
    pub uid: u32,
    /// Index of the interface that it was bound to before it connected; zero for none.
    pub interface: u32,
    /// Values of options for the peer leg, host byte order, by slot of [`crate::peer_option::PEER_OPTIONS`].
    pub peer_options: [i32; SLOTS],
    /// 1 if it came out of `accept`.
    pub accepted: u32,
    /// 1 if it, or the listener that it came out of, was made with the protocol `IPPROTO_TLS`.
    pub by_protocol: u32,
    /// 1 if it is a TLS socket by a rule of the administrator's, not by its own options.
    pub by_rule: u32,
    /// Count of SYNs that were parked for it ([`crate::event::Parked`]) while it listened and nobody served it.
    pub parked: u32,
    /// Scratch space for the length of one hook; zero between them.
    pub scratch: u64,
    /// Name for SNI and for the certificate check (`TLS_HOSTNAME`).
    pub hostname: HostName,
}

pod!(Endpoint);
pod!(Socket);

const _: () = assert!(size_of::<Endpoint>() == 24 && align_of::<Endpoint>() == 4);
const _: () = assert!(size_of::<HostName>() == 264);
const _: () = assert!(size_of::<Caller>() == 40);
const _: () = assert!(size_of::<Socket>() == 472 && align_of::<Socket>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_of_an_address_is_that_address_again() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:443", "0.0.0.0:0", "[::]:65535"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Endpoint::from(addr)), addr);
        }
        assert_eq!(Endpoint::from("192.0.2.1:80".parse::<SocketAddr>().unwrap()).addr[10..], [255, 255, 192, 0, 2, 1]);
    }

    #[test]
    fn v4_mapped_address_is_an_ipv4_address() {
        let mapped = Endpoint::from("[::ffff:192.0.2.1]:80".parse::<SocketAddr>().unwrap());
        assert_eq!(SocketAddr::from(mapped), "192.0.2.1:80".parse().unwrap());
    }
}
