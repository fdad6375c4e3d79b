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
    /// Whether v4-mapped addresses are not in it, though its prefix is around them: `::/0` is every IPv6 address, and no IPv4
    /// address.
    pub(super) only_v6: bool,
}

impl Net {
    /// Every address of both families.
    pub(super) const ALL: Self = Self { addr: 0, bits: 0, only_v6: false };
    /// Every IPv4 address (RFC 4291, section 2.5.5.2).
    pub(super) const V4: Self = Self { addr: 0xffff_0000_0000, bits: 96, only_v6: false };

    /// Makes it of a network of either family.
    pub(super) fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(v4) => Self {
                addr: v4.addr().to_ipv6_mapped().to_bits(),
                bits: Self::V4.bits + u32::from(v4.prefix_len()),
                only_v6: false,
            },
            IpNet::V6(v6) => {
                let net = Self { addr: v6.addr().to_bits(), bits: u32::from(v6.prefix_len()), only_v6: false };
                Self { only_v6: net.bits < Self::V4.bits && net.has(Self::V4), ..net }
            }
        }
    }

    /// Makes it of a single address.
    pub(super) fn one(addr: IpAddr) -> Self {
        Self::of(&IpNet::from(addr))
    }

    /// Whether the addresses of `other` are in this one; those of IPv6, if it has no others.
    pub(super) fn has(self, other: Self) -> bool {
        let around = |inner: Self| {
            self.bits <= inner.bits && (self.bits == 0 || (self.addr ^ inner.addr) >> (128 - self.bits) == 0)
        };
        let is_v4 = other.bits >= Self::V4.bits && other.addr >> 32 == Self::V4.addr >> 32;
        around(other) && !(self.only_v6 && is_v4)
    }
}
