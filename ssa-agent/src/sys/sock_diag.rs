//! TCP sockets as the kernel lists them, and the end of a listening one (sock_diag(7)). All in the network namespace of
//! the calling thread. Each call blocks for one dump.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DESTROY},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

/// A socket that listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ListeningSocket {
    /// Address and port that it listens at.
    pub(crate) at: SocketAddr,
    /// Whether it takes no IPv4 connections. True for IPv4 sockets, which have others.
    pub(crate) only_v6: bool,
}

/// Lists the sockets that listen on a port, in host byte order.
pub(crate) fn listening(port: u16) -> io::Result<Vec<ListeningSocket>> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for response in dump(family, StateFlags::LISTEN)? {
            let id = &response.header.socket_id;
            if id.source_port == port {
                let only_v6 = response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true)));
                found.push(ListeningSocket { at: SocketAddr::new(id.source_address, port), only_v6 });
            }
        }
    }
    Ok(found)
}

/// A TCP socket of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp {
    /// Inode as the link `/proc/PID/fd/N` has it; zero if no process has it.
    pub(crate) inode: u32,
    /// Inode of the cgroup in which it was made; zero before 5.8.
    pub(crate) cgroup: u64,
    /// Local address and port.
    pub(crate) local: SocketAddr,
    /// Remote address and port; the port is zero if it is not connected.
    pub(crate) remote: SocketAddr,
    /// Whether it listens.
    pub(crate) listens: bool,
}

/// Lists the open TCP sockets of the namespace. Those that were never bound or connected are not listed.
pub(crate) fn tcp() -> io::Result<Vec<Tcp>> {
    /// `INET_DIAG_CGROUP_ID` (include/uapi/linux/inet_diag.h).
    const CGROUP_ID: u16 = 21;
    const LISTEN: u8 = 10;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for response in dump(family, StateFlags::all())? {
            let id = &response.header.socket_id;
            let cgroup = response.nlas.iter().find_map(|nla| {
                let Nla::Other(other) = nla else { return None };
                let mut bytes = [0; 8];
                let is_it = other.kind() == CGROUP_ID && other.value_len() == bytes.len();
                is_it.then(|| other.emit_value(&mut bytes))?;
                Some(u64::from_ne_bytes(bytes))
            });
            found.push(Tcp {
                inode: response.header.inode,
                cgroup: cgroup.unwrap_or(0),
                local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
                remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
                listens: response.header.state == LISTEN,
            });
        }
    }
    Ok(found)
}

/// Whether there is a socket with these addresses, in any state.
pub(crate) fn exists(local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    let is_this = |response: &InetResponse| {
        let id = &response.header.socket_id;
        let (here, there) = (id.source_address.to_canonical(), id.destination_address.to_canonical());
        (here, id.source_port) == (local.ip().to_canonical(), local.port())
            && (there, id.destination_port) == (remote.ip().to_canonical(), remote.port())
    };
    // An IPv4 connection of a dual-stack listener is an IPv6 socket.
    let of = |family| dump(family, StateFlags::all()).map(|all| all.iter().any(is_this));
    Ok(of(AF_INET)? || of(AF_INET6)?)
}

/// Ends the socket that listens and has this cookie (`SO_COOKIE`): its `accept` fails. Needs CAP_NET_ADMIN. One that is
/// gone is no error.
pub(crate) fn destroy(family: u8, cookie: u64) -> io::Result<()> {
    let is_it = |response: &InetResponse| {
        let [a, b, c, d, e, f, g, h] = response.header.socket_id.cookie;
        // Two words of 4 bytes, the lower one first.
        let word = |bytes| u64::from(u32::from_ne_bytes(bytes));
        word([a, b, c, d]) | word([e, f, g, h]) << 32 == cookie
    };
    for response in dump(family, StateFlags::LISTEN)?.into_iter().filter(is_it) {
        let socket = open()?;
        let mut message = message(family, StateFlags::LISTEN, response.header.socket_id);
        message.header.message_type = SOCK_DESTROY;
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        send(&socket, &message)?;
        let (answer, _from) = socket.recv_from_full()?;
        if let Ok(answer) = NetlinkMessage::<SockDiagMessage>::deserialize(&answer)
            && let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
    }
    Ok(())
}

/// Dumps the sockets of a family in these states.
fn dump(family: u8, states: StateFlags) -> io::Result<Vec<InetResponse>> {
    let socket = open()?;
    let unspecified: IpAddr = if family == AF_INET { [0; 4].into() } else { [0_u16; 8].into() };
    let any = SocketId {
        source_port: 0,
        destination_port: 0,
        source_address: unspecified,
        destination_address: unspecified,
        interface_id: 0,
        cookie: [0xff; 8],
    };
    let mut message = message(family, states, any);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    send(&socket, &message)?;
    let mut found = Vec::new();
    loop {
        let (bytes, _from) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::other(error.to_string()))?;
            #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel sends nothing else in a dump")]
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => found.push(*response),
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages begin at multiples of 4 (netlink(7)).
            let len = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(len..).filter(|_rest| len > 0).unwrap_or_default();
        }
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

fn message(family: u8, states: StateFlags, socket_id: SocketId) -> NetlinkMessage<SockDiagMessage> {
    let request = InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id };
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), SockDiagMessage::InetRequest(request).into());
    message.finalize();
    message
}

fn send(socket: &Socket, message: &NetlinkMessage<SockDiagMessage>) -> io::Result<()> {
    let mut bytes = vec![0; message.header.length as usize];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}
