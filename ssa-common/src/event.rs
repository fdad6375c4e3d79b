//! Records of the ring buffer, from the hooks to the agent, in order.

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
    pub id: u64,
    pub caller: Caller,
}

/// An option's value waits in the map of blobs.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct BlobSet {
    /// [`EventKind::BLOB`]
    pub kind: EventKind,
    /// Reserved; always zero.
    pub reserved: u32,
    pub id: u64,
    pub key: BlobKey,
    /// Whose rights a path is opened with.
    pub caller: Caller,
}

/// A SYN of a TLS socket was held back: the first, or one that was sent again.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Held {
    /// [`EventKind::HELD`]
    pub kind: EventKind,
    pub attempt: u32,
    pub id: u64,
    pub context: u64,
    pub caller: Caller,
    /// The cgroup in which the socket was made (`bpf_skb_cgroup_id`): its inode. The caller may have been moved since.
    pub cgroup: u64,
    pub orig_dst: Endpoint,
    pub bound: Endpoint,
    /// Bytes used of `syn`.
    pub syn_len: u32,
    /// AF_INET or AF_INET6: the socket's own family, not that of the packet.
    pub family: u32,
    /// The interface that the program has bound its socket to; zero for none.
    pub interface: u32,
    /// 1 if the socket is a TLS socket by a rule: then the host name is the rule's.
    pub by_rule: u32,
    /// Options for the peer leg, by slot of [`crate::peer_option::PEER_OPTIONS`].
    pub peer_options: [i32; SLOTS],
    pub hostname: HostName,
    /// The packet from the IP header on, headers only. The TCP checksum is not valid: it was left
    /// to offload.
    pub syn: [u8; SYN_BYTES],
}

/// A socket's attempt has left SYN_SENT: a verdict arrived, or the application gave up.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct HoldEnded {
    /// [`EventKind::HOLD_ENDED`]
    pub kind: EventKind,
    pub attempt: u32,
    pub id: u64,
    /// The kernel state that it went to.
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
    pub id: u64,
    /// The context that it used last; gone too, if no other socket uses it.
    pub context: u64,
}

/// A program sets an option for the peer leg while it connects or is connected. The kernel has not
/// checked the value yet.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Changed {
    /// [`EventKind::CHANGED`]
    pub kind: EventKind,
    /// Slot of [`crate::peer_option::PEER_OPTIONS`].
    pub slot: u32,
    pub id: u64,
    pub value: i32,
    /// Reserved; always zero.
    pub reserved: u32,
}

/// A TLS socket listens, or does so no longer. Also a value of the map of listeners.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Listening {
    /// [`EventKind::LISTENING`]
    pub kind: EventKind,
    /// Whether it listens, and why it is a TLS socket.
    pub status: ListenStatus,
    pub id: u64,
    pub context: u64,
    /// Who made it a TLS socket.
    pub caller: Caller,
    /// The address that it is bound to.
    pub at: Endpoint,
    /// AF_INET or AF_INET6.
    pub family: u32,
    /// The socket's count of connects, all of which failed.
    pub attempt: u32,
    /// The kernel's own name of the socket (`SO_COOKIE`).
    pub cookie: u64,
}

/// A datagram to a name server or from one, or a segment with data. In a ring buffer of its own.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Datagram {
    /// The socket's (`SO_COOKIE`).
    pub cookie: u64,
    /// The cgroup in which the socket was made: its inode.
    pub cgroup: u64,
    /// The name server.
    pub server: Endpoint,
    /// 1 if it goes to the server.
    pub egress: u32,
    /// Bytes used of `bytes`.
    pub len: u32,
    /// 1 if it is a segment of TCP; then the two below count.
    pub tcp: u32,
    /// The number of its first byte.
    pub seq: u32,
    /// The number of the byte that the socket waits for (`rcv_nxt`); zero if it goes to the server.
    pub next: u32,
    /// Reserved; always zero.
    pub reserved: u32,
    /// What follows the header. What is beyond `len` was another record's.
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
const _: () = assert!(size_of::<Opened>() == 56);
const _: () = assert!(size_of::<BlobSet>() == 72);
const _: () = assert!(size_of::<Held>() == 608);
const _: () = assert!(size_of::<HoldEnded>() == 24);
const _: () = assert!(size_of::<Closed>() == 24);
const _: () = assert!(size_of::<Changed>() == 24);
