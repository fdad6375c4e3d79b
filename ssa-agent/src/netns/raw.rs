//! Raw sockets, through which held connects end.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::kernel::{Errno, Syn};

/// Way to end held connects of one network namespace. A trait, so that what decides on them can be tested without a
/// kernel.
pub(crate) trait EndHold: Send + Sync {
    /// Lets a held SYN pass. Errors: as of sendto(2); the SYN's next retransmission gives another chance.
    fn resume(&self, syn: &Syn) -> io::Result<()>;

    /// Makes a held connect fail, if its socket is not just locked by another call: the kernel drops an ICMP error
    /// then, unseen. Errors: as of sendto(2).
    fn refuse(&self, syn: &Syn, errno: Errno) -> io::Result<()>;
}

impl EndHold for RawSockets {
    fn resume(&self, syn: &Syn) -> io::Result<()> {
        self.send(&syn.resume(), syn.target)
    }

    fn refuse(&self, syn: &Syn, errno: Errno) -> io::Result<()> {
        self.send(&syn.refuse(errno), syn.source)
    }
}

/// Raw sockets that send the packets which end holds.
pub(crate) struct RawSockets {
    v4: Socket,
    /// Socket for IPv6; none where there is no IPv6.
    v6: Option<Socket>,
}

impl RawSockets {
    /// Makes the sockets in this thread's namespace. Needs CAP_NET_RAW.
    pub(super) fn new() -> io::Result<Self> {
        let v4 = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        v4.set_nonblocking(true)?;
        Ok(Self { v4, v6: raw6().ok() })
    }

    fn send(&self, packet: &[u8], mut to: SocketAddr) -> io::Result<()> {
        // A raw socket takes no port.
        to.set_port(0);
        let raw = match to {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        raw.send_to(packet, &SockAddr::from(to)).map(drop)
    }
}

fn raw6() -> io::Result<Socket> {
    let raw = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    raw.set_header_included_v6(true)?;
    raw.set_nonblocking(true)?;
    Ok(raw)
}
