//! Records of the ring buffers, from the hooks to the agent, in order. All are written by the hooks, and whole.
//!
//! Numbers are in host byte order, if nothing else is said.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    code,
    context::BlobKey,
    limits::{DATAGRAM_BYTES, SYN_BYTES},
    peer_option::SLOTS,
    phase::TcpState,
    pod,
    socket::{Caller, Endpoint, HostName},
};

code! {
    /// Kind of a record of the ring buffer `EVENTS`: its first field. Written by the hooks.
    EventKind(u32) {
        /// [`Opened`]
        OPENED = 1,
        /// [`BlobSet`]
        BLOB = 2,
        /// [`Held`]
        HELD = 3,
        /// [`HoldEnded`]
        HOLD_ENDED = 4,
        /// [`Closed`]
        CLOSED = 5,
        /// [`Changed`]
        CHANGED = 6,
        /// [`Listening`]
        LISTENING = 7,
    }
}

/// A socket became a TLS socket: an id was taken from the pool.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Opened {
    /// [`EventKind::OPENED`]
    pub kind: EventKind,
    /// Reserved; always zero.
    pub reserved: u32,
    /// Id of the socket, and of its context.
    pub id: u64,
    /// Process that made it a TLS socket.
    pub caller: Caller,
}

/// An option's value waits in the map `BLOBS`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct BlobSet {
    /// [`EventKind::BLOB`]
    pub kind: EventKind,
    /// Reserved; always zero.
    pub reserved: u32,
    /// Id of the socket on which the option was set.
    pub id: u64,
    /// Key of the value in `BLOBS`.
    pub key: BlobKey,
    /// Process whose rights a path is opened with.
    pub caller: Caller,
}

/// A SYN of a TLS socket was held back: the first, or one that was sent again.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Held {
    /// [`EventKind::HELD`]
    pub kind: EventKind,
    /// Attempt that the SYN is of ([`crate::socket::Socket::attempt`]).
    pub attempt: u32,
    /// Id of the socket.
    pub id: u64,
    /// Id of the context that the attempt uses.
    pub context: u64,
    /// Process that called `connect`.
    pub caller: Caller,
    /// Inode of the cgroup in which the socket was made (`bpf_skb_cgroup_id`). The caller may have been moved since.
    pub cgroup: u64,
    /// Destination that the application gave to `connect`.
    pub orig_dst: Endpoint,
    /// Address that the socket was bound to before; unspecified if it was not.
    pub bound: Endpoint,
    /// Length of the headers in `syn`, in bytes.
    pub syn_len: u32,
    /// AF_INET or AF_INET6: the socket's own family, not that of the packet.
    pub family: u32,
    /// Index of the interface that the application has bound its socket to; zero for none.
    pub interface: u32,
    /// 1 if the socket is a TLS socket by a rule: then the host name is the rule's.
    pub by_rule: u32,
    /// Values of options for the peer leg, by slot of [`crate::peer_option::PEER_OPTIONS`], host byte order.
    pub peer_options: [i32; SLOTS],
    /// Name for SNI and for the certificate check.
    pub hostname: HostName,
    /// Packet from the IP header on, headers only, network byte order. The TCP checksum is not valid: it was left
    /// to offload.
    pub syn: [u8; SYN_BYTES],
}

/// A hold has ended: the socket has left SYN_SENT, as a verdict arrived or the application gave up. Lost: the agent
/// repeats its verdict in vain for a while.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct HoldEnded {
    /// [`EventKind::HOLD_ENDED`]
    pub kind: EventKind,
    /// Attempt that was held.
    pub attempt: u32,
    /// Id of the socket.
    pub id: u64,
    /// State that the socket went to.
    pub tcp_state: TcpState,
    /// Reserved; always zero.
    pub reserved: u32,
}

/// A TLS socket was closed for the last time.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Closed {
    /// [`EventKind::CLOSED`]
    pub kind: EventKind,
    /// Reserved; always zero.
    pub reserved: u32,
    /// Id of the socket.
    pub id: u64,
    /// Id of the context that it used last; gone too, if no other socket uses it.
    pub context: u64,
}

/// An option for the peer leg was set on a socket that connects or is connected. The kernel has not
/// checked the value yet. Lost: the peer leg keeps what it has.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Changed {
    /// [`EventKind::CHANGED`]
    pub kind: EventKind,
    /// Slot of [`crate::peer_option::PEER_OPTIONS`].
    pub slot: u32,
    /// Id of the socket.
    pub id: u64,
    /// Value as the application gave it, host byte order.
    pub value: i32,
    /// Reserved; always zero.
    pub reserved: u32,
}

/// A TLS socket listens, or does so no longer. Also a value of the map `LISTENING`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Listening {
    /// [`EventKind::LISTENING`]
    pub kind: EventKind,
    /// Status: it listens, and why it is a TLS socket, or it listens no longer.
    pub status: ListenStatus,
    /// Id of the socket.
    pub id: u64,
    /// Id of its context.
    pub context: u64,
    /// Process that made it a TLS socket; by a rule: that called `bind`.
    pub caller: Caller,
    /// Address that it is bound to; unspecified if it listens no longer.
    pub at: Endpoint,
    /// AF_INET or AF_INET6; zero if it listens no longer.
    pub family: u32,
    /// Count of its connects, all of which failed.
    pub attempt: u32,
    /// The kernel's own name of the socket (`SO_COOKIE`); zero if it listens no longer.
    pub cookie: u64,
}

/// A SYN that came to a listening TLS socket before anybody served it, and was dropped: a record of the ring buffer
/// `PARKED`. The agent sends it again when the listener is served, or turns out to be none of its own.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Parked {
    /// Id of the listening socket.
    pub id: u64,
    /// Time at which it came, in nanoseconds (`CLOCK_MONOTONIC`).
    pub time: u64,
    /// Length of the headers in `syn`, in bytes.
    pub syn_len: u32,
    /// Reserved; always zero.
    pub reserved: u32,
    /// Packet from the IP header on, headers only, network byte order.
    pub syn: [u8; SYN_BYTES],
}

/// A datagram to a name server or from one, or a segment with data: a record of the ring buffer `DNS_MESSAGES`.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Datagram {
    /// The kernel's own name of the socket (`SO_COOKIE`).
    pub cookie: u64,
    /// Inode of the cgroup in which the socket was made.
    pub cgroup: u64,
    /// Address and port of the name server.
    pub server: Endpoint,
    /// 1 if it goes to the server, 0 if it comes from there.
    pub egress: u32,
    /// Length of the payload in `bytes`, in bytes; from 1 on.
    pub len: u32,
    /// 1 if it is a segment of TCP; then the two below count.
    pub tcp: u32,
    /// Sequence number of its first byte, host byte order.
    pub seq: u32,
    /// Sequence number of the byte that the socket waits for (`rcv_nxt`), host byte order; zero if it goes to the
    /// server.
    pub next: u32,
    /// Reserved; always zero.
    pub reserved: u32,
    /// Payload after the header of UDP or TCP. Bytes beyond `len` were another record's.
    pub bytes: [u8; DATAGRAM_BYTES],
}

code! {
    /// Status of a TLS socket that `listen` was called on.
    ListenStatus(u32) {
        /// The socket listens no longer.
        ENDED = 0,
        /// The socket listens, and is a TLS socket by its own options.
        BY_OPTIONS = 1,
        /// The socket listens, and is a TLS socket by a rule of the administrator's.
        BY_RULE = 2,
    }
}

pod!(Listening);

const _: () = assert!(size_of::<Listening>() == 104);
const _: () = assert!(size_of::<Datagram>() == 64 + DATAGRAM_BYTES);
const _: () = assert!(size_of::<Parked>() == 24 + SYN_BYTES);
const _: () = assert!(size_of::<Opened>() == 56);
const _: () = assert!(size_of::<BlobSet>() == 72);
const _: () = assert!(size_of::<Held>() == 608);
const _: () = assert!(size_of::<HoldEnded>() == 24);
const _: () = assert!(size_of::<Closed>() == 24);
const _: () = assert!(size_of::<Changed>() == 24);
