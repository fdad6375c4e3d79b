//! Packets that end a hold: the SYN itself, a reset, or an ICMP error that quotes it.
//!
//! The kernel takes an ICMP error for a connecting socket only if it quotes the addresses, the ports and the sequence
//! number (`tcp_v4_err` and `tcp_v6_err` in net/ipv4/tcp_ipv4.c and net/ipv6/tcp_ipv6.c, v6.12); it then ends `connect`
//! with the errno of the table `icmp_err_convert` (net/ipv4/icmp.c) or of `icmpv6_err_convert` (net/ipv6/icmp.c).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// Errnos that a held connect can end with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Errno {
    /// `ECONNREFUSED`, by a reset.
    ConnectionRefused,
    /// `EHOSTUNREACH`, by an ICMP destination unreachable.
    HostUnreachable,
    /// `ENETUNREACH`, by an ICMP destination unreachable.
    NetworkUnreachable,
    /// `EPROTO`, by an ICMP parameter problem.
    Protocol,
}

impl Errno {
    /// Name as errno(3) has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectionRefused => "ECONNREFUSED",
            Self::HostUnreachable => "EHOSTUNREACH",
            Self::NetworkUnreachable => "ENETUNREACH",
            Self::Protocol => "EPROTO",
        }
    }
}

/// Headers of a held SYN, without data: a connect by TCP Fast Open may have put some in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Syn {
    packet: Vec<u8>,
    /// Length of the IP header, in bytes.
    ip_len: usize,
    /// Address and port of the application's socket.
    pub(crate) source: SocketAddr,
    /// Virtual address and port that it was redirected to.
    pub(crate) target: SocketAddr,
    /// Initial sequence number, in host byte order.
    pub(crate) isn: u32,
}

impl Syn {
    /// Parses a packet from its IP header on. None if it is no TCP SYN, or cut short.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let (ip_len, source, target): (usize, IpAddr, IpAddr) = match packet.first()? >> 4 {
            4 if *packet.get(9)? == TCP => {
                (usize::from(packet[0] & 0x0f) * 4, v4(packet, 12)?.into(), v4(packet, 16)?.into())
            }
            6 if *packet.get(6)? == TCP => (40, v6(packet, 8)?.into(), v6(packet, 24)?.into()),
            _ => return None,
        };
        /// Shortest header of IPv4, in bytes (RFC 791, section 3.1).
        const IP_LEAST: usize = 20;
        if ip_len < IP_LEAST {
            return None;
        }
        let tcp = packet.get(ip_len..)?;
        let tcp_len = usize::from(tcp.get(12)? >> 4) * 4;
        const SYN_ONLY: u8 = 0x02;
        if tcp_len < 20 || tcp.get(13)? & 0x17 != SYN_ONLY {
            return None;
        }
        Some(Self {
            packet: packet.get(..ip_len + tcp_len)?.to_vec(),
            ip_len,
            source: SocketAddr::new(source, be16(tcp, 0)?),
            target: SocketAddr::new(target, be16(tcp, 2)?),
            isn: be32(tcp, 4)?,
        })
    }

    /// Builds the SYN as it travels: lengths and checksums are those of the headers alone.
    pub(crate) fn resume(&self) -> Vec<u8> {
        let mut packet = self.packet.clone();
        let total = u16::try_from(packet.len()).expect("headers are short");
        if self.source.is_ipv4() {
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            fix_ipv4(&mut packet, self.ip_len);
        } else {
            let payload = total - 40;
            packet[4..6].copy_from_slice(&payload.to_be_bytes());
        }
        let at = self.ip_len + 16;
        fix_transport(&mut packet, self.ip_len, at, TCP, self.source.ip(), self.target.ip());
        packet
    }

    /// Builds the packet that makes the application's `connect` fail with `errno`.
    pub(crate) fn refuse(&self, errno: Errno) -> Vec<u8> {
        match (errno, self.source.is_ipv4()) {
            (Errno::ConnectionRefused, _) => self.reset(),
            (Errno::NetworkUnreachable, true) => self.icmp(3, 0),
            (Errno::HostUnreachable, true) => self.icmp(3, 1),
            (Errno::Protocol, true) => self.icmp(12, 0),
            (Errno::NetworkUnreachable, false) => self.icmp(1, 0),
            (Errno::HostUnreachable, false) => self.icmp(1, 3),
            (Errno::Protocol, false) => self.icmp(4, 0),
        }
    }

    fn reset(&self) -> Vec<u8> {
        const RST_ACK: u8 = 0x14;
        let mut tcp = [0; 20];
        tcp[0..2].copy_from_slice(&self.target.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.source.port().to_be_bytes());
        tcp[8..12].copy_from_slice(&self.isn.wrapping_add(1).to_be_bytes());
        tcp[12] = 5 << 4;
        tcp[13] = RST_ACK;
        self.answer(TCP, 16, &tcp)
    }

    fn icmp(&self, kind: u8, code: u8) -> Vec<u8> {
        let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&self.packet);
        self.answer(if self.source.is_ipv4() { ICMP } else { ICMP6 }, 2, &message)
    }

    /// Builds a packet from the virtual address to the application, with its checksum at `checksum_at` of the payload.
    fn answer(&self, protocol: u8, checksum_at: usize, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).expect("headers are short");
        let (mut packet, ip_len) = match (self.target.ip(), self.source.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => (ipv4_header(protocol, len, from, to), 20),
            (IpAddr::V6(from), IpAddr::V6(to)) => (ipv6_header(protocol, len, from, to), 40),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                unreachable!("both are of one packet")
            }
        };
        packet.extend_from_slice(payload);
        fix_transport(&mut packet, ip_len, ip_len + checksum_at, protocol, self.target.ip(), self.source.ip());
        packet
    }
}

fn ipv4_header(protocol: u8, payload: u16, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(payload + 20).to_be_bytes());
    header[8] = 64;
    header[9] = protocol;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    fix_ipv4(&mut header, 20);
    header
}

fn ipv6_header(protocol: u8, payload: u16, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    header[6] = protocol;
    header[7] = 64;
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());
    header
}

/// Computes the checksum of the IPv4 header (RFC 791).
fn fix_ipv4(packet: &mut [u8], ip_len: usize) {
    packet[10..12].fill(0);
    let checksum = !fold(sum(&packet[..ip_len]));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Computes the checksum of TCP or ICMPv6, with the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1), or of
/// ICMP, without.
fn fix_transport(packet: &mut [u8], ip_len: usize, at: usize, protocol: u8, from: IpAddr, to: IpAddr) {
    packet[at..at + 2].fill(0);
    let mut total = sum(&packet[ip_len..]);
    if protocol != ICMP {
        for address in [from, to] {
            total += match address {
                IpAddr::V4(address) => sum(&address.octets()),
                IpAddr::V6(address) => sum(&address.octets()),
            };
        }
        total += u64::from(protocol) + (packet.len() - ip_len) as u64;
    }
    let checksum = !fold(total);
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

fn v4(packet: &[u8], at: usize) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok().map(Ipv4Addr::from)
}

fn v6(packet: &[u8], at: usize) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok().map(Ipv6Addr::from)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a big-endian number of 4 bytes.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN of a socket at 127.0.0.1:40000 to 127.205.1.2:7, with 3 bytes of data.
    fn syn4() -> Vec<u8> {
        let mut packet = ipv4_header(TCP, 24 + 3, Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 205, 1, 2));
        let mut tcp = vec![0; 24];
        tcp[0..2].copy_from_slice(&40000_u16.to_be_bytes());
        tcp[2..4].copy_from_slice(&7_u16.to_be_bytes());
        tcp[4..8].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
        tcp[12] = 6 << 4;
        tcp[13] = 0x02;
        packet.extend_from_slice(&tcp);
        packet.extend_from_slice(b"abc");
        packet
    }

    fn valid(packet: &[u8], ip_len: usize, protocol: u8) -> bool {
        let mut total = sum(&packet[ip_len..]);
        if protocol != ICMP {
            total += sum(&packet[12..20]) + u64::from(protocol) + (packet.len() - ip_len) as u64;
        }
        fold(total) == 0xffff && fold(sum(&packet[..ip_len])) == 0xffff
    }

    #[test]
    fn resumed_syn_has_no_data_and_valid_checksums() {
        let syn = Syn::parse(&syn4()).unwrap();
        assert_eq!(syn.isn, 0xdead_beef);
        assert_eq!(syn.target, "127.205.1.2:7".parse().unwrap());
        let packet = syn.resume();
        assert_eq!(packet.len(), 44);
        assert!(valid(&packet, 20, TCP));
    }

    #[test]
    fn reset_acknowledges_the_syn() {
        let packet = Syn::parse(&syn4()).unwrap().refuse(Errno::ConnectionRefused);
        assert!(valid(&packet, 20, TCP));
        assert_eq!(be32(&packet, 28), Some(0xdead_bef0));
    }

    #[test]
    fn icmp_errors_quote_the_syn() {
        let syn = Syn::parse(&syn4()).unwrap();
        for (errno, kind, code) in
            [(Errno::Protocol, 12, 0), (Errno::HostUnreachable, 3, 1), (Errno::NetworkUnreachable, 3, 0)]
        {
            let packet = syn.refuse(errno);
            assert_eq!((packet[9], packet[20], packet[21]), (ICMP, kind, code));
            assert_eq!(packet[28..], syn.packet);
            assert!(valid(&packet, 20, ICMP));
        }
    }

    #[test]
    fn anything_but_a_whole_syn_is_refused() {
        let packet = syn4();
        for len in 0..44 {
            assert_eq!(Syn::parse(&packet[..len]), None, "cut at {len}");
        }
        let mut ack = packet;
        ack[33] = 0x12;
        assert_eq!(Syn::parse(&ack), None, "SYN-ACK");
    }
}
