//! Networks as the hooks see addresses.

use std::net::IpAddr;

use ipnet::IpNet;

/// A network as the hooks see addresses: IPv6, or v4-mapped.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Net {
    /// Most significant bit first.
    pub(super) addr: u128,
    /// Length of the prefix: 0 to 128.
    pub(super) bits: u32,
}

impl Net {
    /// Every address of both families.
    pub(super) const ALL: Self = Self { addr: 0, bits: 0 };

    /// Makes it of a network of either family.
    pub(super) fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(v4) => Self { addr: v4.addr().to_ipv6_mapped().to_bits(), bits: 96 + u32::from(v4.prefix_len()) },
            IpNet::V6(v6) => Self { addr: v6.addr().to_bits(), bits: u32::from(v6.prefix_len()) },
        }
    }

    /// Makes it of a single address.
    pub(super) fn one(addr: IpAddr) -> Self {
        Self::of(&IpNet::from(addr))
    }

    /// Whether all addresses of `other` are in this one.
    pub(super) fn has(self, other: Self) -> bool {
        self.bits <= other.bits && (self.bits == 0 || (self.addr ^ other.addr) >> (128 - self.bits) == 0)
    }
}
