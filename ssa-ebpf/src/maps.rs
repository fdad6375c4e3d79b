//! Maps of the hooks: key -> value, capacity, who writes, who reads, and what happens when it is full. Hash maps are
//! without preallocation: what is not used costs nothing.

use aya_ebpf::{
    bindings::{
        BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE,
        bpf_map_type::{BPF_MAP_TYPE_CGROUP_STORAGE, BPF_MAP_TYPE_SK_STORAGE},
        bpf_sock,
    },
    btf_maps::{Array, HashMap, LpmTrie, ProgramArray, Queue, RingBuf, SkStorage},
    helpers::generated::{bpf_get_local_storage, bpf_sk_storage_delete, bpf_sk_storage_get, bpf_skc_to_mptcp_sock},
    macros::btf_map,
};
use ssa_common::{
    certificate::{Certificate, Chain, Digest},
    cipher::{CIPHERS as CIPHERS_MAX, CipherList, CipherName, CipherSet},
    connection::Connection,
    context::{Blob, BlobKey, Context, KeptPath},
    event::Listening,
    limits::{
        BLOBS_CAPACITY, CERTIFICATES_CAPACITY, CGROUPS_CAPACITY, DNS_BYTES, EVENTS_BYTES, IDS_CAPACITY, LEGS_CAPACITY,
        LISTENERS_CAPACITY, OPTION_BYTES, PATHS_CAPACITY, POLICIES_CAPACITY, RULE_ADDRESSES_CAPACITY,
        RULE_PORTS_CAPACITY, SCRATCH_CAPACITY, SOCKET_CALLS_CAPACITY, SOCKETS_CAPACITY, USERS_CAPACITY,
    },
    policy::{Policy, PolicyKey},
    rule::{Action, AddressKey, Groups, PortKey},
    socket::{Caller, Service, Socket},
    steer::LegKey,
};

/// Flag of hash maps whose entries are allocated when they are made.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Attached cgroups: cgroup (the kernel's own key) -> id and count of open TLS sockets. One value for all hooks of a
/// cgroup, which the kernel makes when the first is attached. The id is written by the agent, the count by the hooks;
/// both sides read. Never full: attaching fails instead.
#[btf_map]
pub(crate) static SERVICES: CgroupStorage<Service> = CgroupStorage::new();

/// Definition of a map type that aya has none for here: `BPF_MAP_TYPE_CGROUP_STORAGE`, shared by all attach types. The
/// fields say to the loader what it is like, by their types.
///
/// KERNEL: shared from 5.9.
#[repr(C)]
pub(crate) struct CgroupStorage<T> {
    /// Type of the map.
    r#type: *const [i32; BPF_MAP_TYPE_CGROUP_STORAGE as usize],
    /// Type of the key.
    key: *const u64,
    /// Type of the value.
    value: *const T,
    /// Capacity; none, as entries belong to what they are of.
    max_entries: *const [i32; 0],
}

// SAFETY: the pointers are null, and only their types are looked at.
unsafe impl<T> Sync for CgroupStorage<T> {}

impl<T> CgroupStorage<T> {
    /// A definition, for a static.
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null() }
    }
}

/// TLS sockets: socket (sk_storage) -> its state. What comes out of a listener begins with a copy of the listener's.
/// Written and read by the hooks only; the kernel deletes it with the socket. Full (the socket's option memory,
/// `net.core.optmem_max`): the set fails with `ENOBUFS`.
#[btf_map]
pub(crate) static SOCKETS: ClonedStorage<Socket> = ClonedStorage::new();

/// Definition of an sk_storage with `BPF_F_CLONE`: [`SkStorage`] has no choice of flags. The fields say to the loader
/// what the map is like, by their types.
///
/// KERNEL: `BPF_F_CLONE` from 5.4.
#[repr(C)]
pub(crate) struct ClonedStorage<T> {
    /// Type of the map.
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    /// Type of the key.
    key: *const i32,
    /// Type of the value.
    value: *const T,
    /// Capacity; none, as entries belong to what they are of.
    max_entries: *const [i32; 0],
    /// Flags of the map.
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers are null, and only their types are looked at.
unsafe impl<T> Sync for ClonedStorage<T> {}

impl<T> ClonedStorage<T> {
    /// A definition, for a static.
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}

/// Sockets, TLS or not yet, on which `TCP_FASTOPEN_CONNECT` was set: socket (sk_storage) -> 1 if it is on. Written by
/// `setsockopt`, read by `connect`. Full (`net.core.optmem_max`): the option is not noted, and the kernel's own
/// handler decides.
#[btf_map]
pub(crate) static FAST_OPEN: SkStorage<u32> = SkStorage::new();

/// Listeners of the agent, from which alone a held socket takes a SYN-ACK: socket (sk_storage) -> 1. Written by the
/// agent, read by ingress. Full: the agent can't serve the namespace or the listener.
#[btf_map]
pub(crate) static AGENT_LISTENERS: SkStorage<u32> = SkStorage::new();

/// Ids for TLS sockets, random, each used once: a queue of `IDS_CAPACITY`. Written by the agent after each batch of
/// events, taken by [`crate::lifecycle`]. Empty: the set, or the connect by a rule, fails with `ENOBUFS`. Full: the
/// agent stops for now.
#[btf_map]
pub(crate) static IDS: Queue<u64, IDS_CAPACITY> = Queue::new();

/// Contexts: id -> settings. `SOCKETS_CAPACITY` entries. Written by `setsockopt` and sock_ops, deleted with the last
/// socket ([`crate::lifecycle`]) or, of sockets that never came out of `accept`, by the agent; read by both. Full:
/// `ENOBUFS`.
#[btf_map]
pub(crate) static CONTEXTS: HashMap<u64, Context, SOCKETS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Answers: socket id -> those of its last attempt. `SOCKETS_CAPACITY` entries. Made by `connect`, filled by the
/// agent, deleted at `close`; those of an accepted socket or of a listener that can't serve are made by the agent.
/// Read by `getsockopt`, `getpeername`, `getsockname`. Full: `connect` fails with `ENOBUFS`, an accepted connection
/// is reset.
#[btf_map]
pub(crate) static CONNECTIONS: HashMap<u64, Connection, SOCKETS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Values for the agent: context, option, sequence number -> path or PEM text. `BLOBS_CAPACITY` entries. Written by
/// `setsockopt`, deleted by the agent as it reads. Full: the set fails with `ENOBUFS`.
#[btf_map]
pub(crate) static BLOBS: HashMap<BlobKey, Blob, BLOBS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Paths of live contexts: context, option, sequence number -> path and caller. `PATHS_CAPACITY` entries. Written,
/// read and deleted by agents only. Full: a restarted agent does not know the files, and refuses to connect with that
/// context.
#[btf_map]
pub(crate) static PATHS: HashMap<BlobKey, KeptPath, PATHS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Verified chains of peers: digest -> chain. `CERTIFICATES_CAPACITY` entries. Written and deleted by the agent, read
/// by `getsockopt`. Full: the connect fails.
#[btf_map]
pub(crate) static CHAINS: HashMap<Digest, Chain, CERTIFICATES_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Certificates of peers: SHA-256 -> certificate. `CERTIFICATES_CAPACITY` entries. Written and deleted by the agent,
/// read by `getsockopt`. Full: the connect fails.
#[btf_map]
pub(crate) static CERTIFICATES: HashMap<Digest, Certificate, CERTIFICATES_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Numbers of cipher suites: hash of OpenSSL's or IANA's name -> number. Room for four names each. Written by the
/// agent before it lives, read by `setsockopt`. Full: the agent does not start.
#[btf_map]
pub(crate) static CIPHERS: HashMap<u64, u32, { 4 * CIPHERS_MAX }, NO_PREALLOC> = HashMap::new();

/// Names of cipher suites: number -> OpenSSL's name. `CIPHERS_MAX` entries, an array. Written by the agent before it
/// lives, read by `getsockopt`. Never full: the agent numbers no more suites.
#[btf_map]
pub(crate) static CIPHER_NAMES: Array<CipherName, CIPHERS_MAX> = Array::new();

/// Scratch space for lists of cipher suites, for the length of one hook: socket id -> [`Scratch`]. `SCRATCH_CAPACITY`
/// entries. Made, used and deleted by `setsockopt` and `getsockopt`. Full: `ENOBUFS`.
#[btf_map]
pub(crate) static SCRATCH: HashMap<u64, Scratch, SCRATCH_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Working memory that is too much for the stack of 512 bytes. Written and read within one hook.
#[repr(C)]
pub(crate) struct Scratch {
    /// Value of an option, and room for what is written over its end.
    pub(crate) bytes: [u8; OPTION_BYTES + 64],
    /// Hashes of names, by index in the list.
    pub(crate) hashes: [u64; CIPHERS_MAX],
    /// List that is being made.
    pub(crate) list: CipherList,
    /// Suites that are on it.
    pub(crate) set: CipherSet,
    /// Always zero, which the verifier does not know ([`crate::repeat`]).
    pub(crate) zero: u64,
}

/// Limits of the administrator: class of cgroup, class of user -> row of policy. `POLICIES_CAPACITY` entries. Written
/// by the agent, read by `setsockopt` and `connect`. Full: the agent refuses the configuration.
#[btf_map]
pub(crate) static POLICIES: HashMap<PolicyKey, Policy, POLICIES_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Classes of cgroups: inode -> class; those that are not there are unknown. `CGROUPS_CAPACITY` entries. Written by
/// the agent, read by `setsockopt` and `connect`. Full: the agent refuses the configuration.
#[btf_map]
pub(crate) static CGROUP_CLASSES: HashMap<u64, u32, CGROUPS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Classes of users: uid -> class; those that are not there are of class 0. `USERS_CAPACITY` entries. Written by the
/// agent, read by `setsockopt` and `connect`. Full: the agent refuses the configuration.
#[btf_map]
pub(crate) static USER_CLASSES: HashMap<u32, u32, USERS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Open TLS sockets of users: uid -> count. `USERS_CAPACITY` entries. Counted by the hooks; the agent deletes those
/// of zero when there are many. Full: the set fails with `ENOBUFS`.
#[btf_map]
pub(crate) static USERS: HashMap<u32, u64, USERS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Processes that have called `bind` on a TCP socket where rules are: socket (sk_storage) -> caller. Who calls
/// `listen` is not known in sock_ops. Written by `bind`, read by sock_ops. Full (`net.core.optmem_max`): `bind` fails
/// with `ENOBUFS`.
#[btf_map]
pub(crate) static BIND_CALLERS: SkStorage<Caller> = SkStorage::new();

/// Sets of rules ([`ssa_common::rule`]): inode of a cgroup -> number of its set, 0 for none, and
/// [`ssa_common::rule::NO_RULES_BELOW`]. Every cgroup of the machine is here as soon as the agent has seen it, if
/// there are rules at all: then so is inode 0. `CGROUPS_CAPACITY` entries. Written by the agent, read by `bind`,
/// `connect`, `sendmsg`, ingress and sock_ops. Full: sockets of the cgroups that are missing are refused.
#[btf_map]
pub(crate) static CGROUP_RULES: HashMap<u64, u32, CGROUPS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Networks of sets of rules: set and prefix of an address -> groups, a trie of the longest prefix.
/// `RULE_ADDRESSES_CAPACITY` entries. Written by the agent, read as [`CGROUP_RULES`]. Full: the agent refuses the
/// configuration.
#[btf_map]
pub(crate) static RULE_ADDRESSES: LpmTrie<AddressKey, Groups, RULE_ADDRESSES_CAPACITY> = LpmTrie::new();

/// Actions of rules: group, traffic and prefix of a port -> [`Action`], a trie of the longest prefix.
/// `RULE_PORTS_CAPACITY` entries. Written by the agent, read as [`CGROUP_RULES`]. Full: the agent refuses the
/// configuration.
#[btf_map]
pub(crate) static RULE_PORTS: LpmTrie<PortKey, Action, RULE_PORTS_CAPACITY> = LpmTrie::new();

/// Switch for [`DNS_MESSAGES`]: 0 -> 1 if a rule goes by names that applications have resolved. One entry, an array.
/// Written by the agent, read by egress and ingress.
#[btf_map]
pub(crate) static DNS_WANTED: Array<u32, 1> = Array::new();

/// Messages to and from name servers ([`ssa_common::event::Datagram`]): a ring buffer of `DNS_BYTES`. Written by
/// egress and ingress, read by the agent. Full: counted ([`Counter::NamesLost`]); the names are not learned.
#[btf_map]
pub(crate) static DNS_MESSAGES: RingBuf<u64, DNS_BYTES> = RingBuf::new();

/// TLS sockets that listen: socket id -> where. `LISTENERS_CAPACITY` entries. Written by sock_ops, deleted there and
/// at `close`; read by the agent. Full: counted; no agent serves the listener, and nothing reaches it.
#[btf_map]
pub(crate) static LISTENING: HashMap<u64, Listening, LISTENERS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Cgroups with hooks: inode -> 1. `CGROUPS_CAPACITY` entries. Written by the agent before it attaches the hooks,
/// read by the programs of `socket(2)`. A cgroup that is not there makes no TLS sockets by `socket(2)`. Full: the
/// agent does not attach.
#[btf_map]
pub(crate) static ATTACHED: HashMap<u64, u32, CGROUPS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Threads that are in a `socket(2)` with `IPPROTO_TLS` ([`crate::sock_create`]): `bpf_get_current_pid_tgid` -> mark.
/// `SOCKET_CALLS_CAPACITY` entries. Written and deleted by the programs of `socket(2)`; the agent deletes those of
/// threads that have ended there. Full: counted; the call fails with `EPROTONOSUPPORT`.
#[btf_map]
pub(crate) static SOCKET_CALLS: HashMap<u64, u32, SOCKET_CALLS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Legs of the agent that may reach a listener, each used once: four-tuple and namespace -> id that the accepted
/// socket gets. `LEGS_CAPACITY` entries. Written by the agent, deleted by sock_ops as the leg passes, or by the
/// agent; read by ingress, sock_ops and the steering program. Full: the client's connection is reset.
#[btf_map]
pub(crate) static LEGS: HashMap<LegKey, u64, LEGS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Events for the agent, in order ([`ssa_common::event`]): a ring buffer of `EVENTS_BYTES`. Written by the hooks,
/// read by the agent. Full: counted ([`Counter::EventsLost`]); a set fails with `ENOBUFS`; a held SYN is reported
/// again when it is sent again. What else is lost is told in the docs of the events.
#[btf_map]
pub(crate) static EVENTS: RingBuf<u64, EVENTS_BYTES> = RingBuf::new();

/// Counters: [`Counter`] -> value, an array. Changed by the hooks by atomic additions only, read by the agent and by
/// [`crate::lifecycle`].
#[btf_map]
pub(crate) static COUNTERS: Array<u64, { ssa_common::limits::COUNTERS }> = Array::new();

/// Program that goes on with `setsockopt` while an agent lives ([`crate::setsockopt`]): 0 -> program. Written by the
/// agent, called by the attached hook. Never pinned: when the agent dies, however it dies, the kernel empties it, and
/// the hook's tail call falls through to its refusal.
#[btf_map]
pub(crate) static LIVE_SETSOCKOPT: ProgramArray<1> = ProgramArray::new();
/// Program that goes on with `connect` over IPv4. As [`LIVE_SETSOCKOPT`].
#[btf_map]
pub(crate) static LIVE_CONNECT4: ProgramArray<1> = ProgramArray::new();
/// Program that goes on with `connect` over IPv6. As [`LIVE_SETSOCKOPT`].
#[btf_map]
pub(crate) static LIVE_CONNECT6: ProgramArray<1> = ProgramArray::new();

/// Index of [`COUNTERS`]. The agent reads them under the same numbers.
pub(crate) use ssa_common::limits::Counter;

/// Adds to a counter; `-1` is two's complement.
#[inline(always)]
pub(crate) fn count(counter: Counter, change: i64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        crate::atomic::add(value, change as u64);
    }
}

/// State of a TLS socket; none if the socket is none.
#[inline(always)]
pub(crate) fn socket_of(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    value_of((&raw const SOCKETS).cast(), sk, 0)
}

/// State of the Multipath TCP socket whose subflow this is; none if no set was tried on it.
///
/// KERNEL: the helper from 5.19; null for any other socket.
#[inline(always)]
pub(crate) fn mptcp_socket_of(subflow: *mut bpf_sock) -> Option<&'static mut Socket> {
    // SAFETY: the helper checks `subflow`.
    let sk = unsafe { bpf_skc_to_mptcp_sock(subflow.cast()) };
    if sk.is_null() { None } else { socket_of(sk.cast()) }
}

/// True if this is a subflow of a Multipath TCP socket.
#[inline(always)]
pub(crate) fn is_subflow(sk: *mut bpf_sock) -> bool {
    // SAFETY: the helper checks `sk`.
    !unsafe { bpf_skc_to_mptcp_sock(sk.cast()) }.is_null()
}

/// Makes a socket of this hook's cgroup a TLS socket by its own options, and counts it. None if there is no room.
#[inline(always)]
pub(crate) fn make_socket(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    let socket = make_uncounted(sk)?;
    count_socket();
    Some(socket)
}

/// Makes a socket of this hook's cgroup a TLS socket by a rule. It is not counted: when the hooks are detached it
/// becomes a plain one again, as everything does to which the rule applies.
#[inline(always)]
pub(crate) fn make_socket_by_rule(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    let socket = make_uncounted(sk)?;
    socket.by_rule = 1;
    Some(socket)
}

/// Makes the state of a TLS socket of this hook's cgroup. None if there is no room.
#[inline(always)]
fn make_uncounted(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    let socket: &mut Socket = value_of((&raw const SOCKETS).cast(), sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE))?;
    socket.service = service().id;
    Some(socket)
}

/// Counts a socket that has become a TLS socket by its own options.
#[inline(always)]
pub(crate) fn count_socket() {
    count(Counter::Sockets, 1);
    crate::atomic::add(&raw mut service().sockets, 1);
}

/// Makes a TLS socket a plain one. It was unregistered ([`crate::lifecycle::unregister`]) before, unless it has just
/// been cloned.
#[inline(always)]
pub(crate) fn delete_socket(sk: *mut bpf_sock) {
    // SAFETY: the helper checks `sk`. Absent is as good.
    unsafe { bpf_sk_storage_delete((&raw const SOCKETS).cast_mut().cast(), sk.cast()) };
}

/// Counts out a TLS socket that [`count_socket`] has counted.
#[inline(always)]
pub(crate) fn uncount_socket() {
    count(Counter::Sockets, -1);
    crate::atomic::add(&raw mut service().sockets, u64::MAX);
}

/// Value of [`SERVICES`] for the cgroup that this hook is attached to.
#[inline(always)]
pub(crate) fn service() -> &'static mut Service {
    // SAFETY: the kernel has made the value before the hook could run, and it lives as long; the id is read, the
    // count only changed atomically.
    unsafe { &mut *bpf_get_local_storage((&raw const SERVICES).cast_mut().cast(), 0).cast::<Service>() }
}

/// Value of a socket in an sk_storage; made if `flags` say so. aya's own wrapper takes a `SockAddrContext` only; this
/// one serves all the hooks.
#[inline(always)]
pub(crate) fn storage<T>(map: *const SkStorage<T>, sk: *mut bpf_sock, flags: u64) -> Option<&'static mut T> {
    value_of(map.cast(), sk, flags)
}

/// As [`storage`], for any definition of the map.
#[inline(always)]
fn value_of<T>(map: *const core::ffi::c_void, sk: *mut bpf_sock, flags: u64) -> Option<&'static mut T> {
    // SAFETY: the helper checks `sk`; what it returns is null or a value of the map, which lives as
    // long as the socket, which lives as long as the hook runs. Hooks of one socket run under its
    // lock, or only read.
    unsafe { bpf_sk_storage_get(map.cast_mut(), sk.cast(), core::ptr::null_mut(), flags).cast::<T>().as_mut() }
}
