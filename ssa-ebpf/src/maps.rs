//! Every map of the hooks: who writes, who reads, what happens when it is full.

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

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// The attached cgroup that a hook runs for: its id and its open TLS sockets. One value for all hooks of a cgroup, which the
/// kernel makes when the first is attached.
#[btf_map]
pub(crate) static SERVICES: CgroupStorage<Service> = CgroupStorage::new();

/// A map of the kernel's that aya has no name for here (`BPF_MAP_TYPE_CGROUP_STORAGE`, shared by all attach types, 5.9). The
/// fields say to the loader what it is like, by their types.
#[repr(C)]
pub(crate) struct CgroupStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_CGROUP_STORAGE as usize],
    key: *const u64,
    value: *const T,
    max_entries: *const [i32; 0],
}

// SAFETY: the pointers are null, and only their types are looked at.
unsafe impl<T> Sync for CgroupStorage<T> {}

impl<T> CgroupStorage<T> {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null() }
    }
}

/// State of each TLS socket, with the socket itself; what comes out of a listener begins with a copy of
/// the listener's. Written by the hooks only. Full (the socket's option memory,
/// `net.core.optmem_max`): the set fails with `ENOBUFS`.
#[btf_map]
pub(crate) static SOCKETS: ClonedStorage<Socket> = ClonedStorage::new();

/// As [`SkStorage`], whose flags can't be chosen, with `BPF_F_CLONE` (5.4). The fields say to the loader
/// what the map is like, by their types.
#[repr(C)]
pub(crate) struct ClonedStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers are null, and only their types are looked at.
unsafe impl<T> Sync for ClonedStorage<T> {}

impl<T> ClonedStorage<T> {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}

/// Sockets, TLS or not yet, on which `TCP_FASTOPEN_CONNECT` is on. Written by `setsockopt`.
#[btf_map]
pub(crate) static FAST_OPEN: SkStorage<u32> = SkStorage::new();

/// Marks the agent's listeners, from which alone a held socket takes a SYN-ACK. Written by the
/// agent.
#[btf_map]
pub(crate) static AGENT_LISTENERS: SkStorage<u32> = SkStorage::new();

/// Socket ids, random, from the agent. Empty: the set that needs one fails with `ENOBUFS`.
#[btf_map]
pub(crate) static IDS: Queue<u64, IDS_CAPACITY> = Queue::new();

/// Contexts by id. Written by the hooks, read by both sides. Full: `ENOBUFS`.
#[btf_map]
pub(crate) static CONTEXTS: HashMap<u64, Context, SOCKETS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Answers by socket id: made by `connect`, filled by the agent, which never makes one, deleted at
/// `close`. Full: `connect` fails with `ENOBUFS`.
#[btf_map]
pub(crate) static CONNECTIONS: HashMap<u64, Connection, SOCKETS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Option values for the agent, which deletes them as it reads. Full: the set fails with `ENOBUFS`.
#[btf_map]
pub(crate) static BLOBS: HashMap<BlobKey, Blob, BLOBS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Paths that programs have set, of contexts that live. Written, read and deleted by agents only. Full: a
/// restarted agent does not know the files.
#[btf_map]
pub(crate) static PATHS: HashMap<BlobKey, KeptPath, PATHS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Verified chains of peers, by digest. Written and deleted by the agent. Full: the connect fails.
#[btf_map]
pub(crate) static CHAINS: HashMap<Digest, Chain, CERTIFICATES_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Certificates of peers, by SHA-256. As [`CHAINS`].
#[btf_map]
pub(crate) static CERTIFICATES: HashMap<Digest, Certificate, CERTIFICATES_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Numbers of cipher suites, by the hash of a name. Written by the agent before it lives.
#[btf_map]
pub(crate) static CIPHERS: HashMap<u64, u32, { 4 * CIPHERS_MAX }, NO_PREALLOC> = HashMap::new();

/// Names of cipher suites, by number. Written by the agent before it lives.
#[btf_map]
pub(crate) static CIPHER_NAMES: Array<CipherName, CIPHERS_MAX> = Array::new();

/// Room to work in, by socket id, for the length of one hook. Full: `ENOBUFS`.
#[btf_map]
pub(crate) static SCRATCH: HashMap<u64, Scratch, SCRATCH_CAPACITY, NO_PREALLOC> = HashMap::new();

/// What is too much for the stack.
#[repr(C)]
pub(crate) struct Scratch {
    /// A value of an option, and room for what is written over its end.
    pub(crate) bytes: [u8; OPTION_BYTES + 64],
    /// Hashes of names.
    pub(crate) hashes: [u64; CIPHERS_MAX],
    /// A list in the making, and what is on it.
    pub(crate) list: CipherList,
    pub(crate) set: CipherSet,
    /// Always zero, which the verifier does not know ([`crate::repeat`]).
    pub(crate) zero: u64,
}

/// What the administrator allows, by class of cgroup and user. Written by the agent.
#[btf_map]
pub(crate) static POLICIES: HashMap<PolicyKey, Policy, POLICIES_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Classes of cgroups, by their inode; those that are not there are unknown. Written by the agent.
#[btf_map]
pub(crate) static CGROUP_CLASSES: HashMap<u64, u32, CGROUPS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Classes of users, by uid; those that are not there are of class 0. Written by the agent.
#[btf_map]
pub(crate) static USER_CLASSES: HashMap<u32, u32, USERS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// TLS sockets that a user has open, by uid; gone with the last. Full: the set fails with `ENOBUFS`.
#[btf_map]
pub(crate) static USERS: HashMap<u32, u64, USERS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Who has called `bind` on a TCP socket, where rules are: who calls `listen` is not known there. Written by the hooks.
#[btf_map]
pub(crate) static BIND_CALLERS: SkStorage<Caller> = SkStorage::new();

/// Sets of rules ([`ssa_common::rule`]), by the inode of a cgroup; 0 is for none. Every cgroup of the machine is here as
/// soon as the agent has seen it, if there are rules at all: then so is inode 0. Written by the agent. Full: sockets of
/// the cgroups that are missing are refused.
#[btf_map]
pub(crate) static CGROUP_RULES: HashMap<u64, u32, CGROUPS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Groups of rules of a set, by address. Written by the agent.
#[btf_map]
pub(crate) static RULE_ADDRESSES: LpmTrie<AddressKey, Groups, RULE_ADDRESSES_CAPACITY> = LpmTrie::new();

/// What the rules of a group say ([`Action`]), by port. Written by the agent.
#[btf_map]
pub(crate) static RULE_PORTS: LpmTrie<PortKey, Action, RULE_PORTS_CAPACITY> = LpmTrie::new();

/// Whether a rule goes by names that programs have resolved, at index 0. Written by the agent.
#[btf_map]
pub(crate) static DNS_WANTED: Array<u32, 1> = Array::new();

/// Datagrams to name servers and from them ([`ssa_common::event::Datagram`]). Full: counted; the names are not learned.
#[btf_map]
pub(crate) static DNS_MESSAGES: RingBuf<u64, DNS_BYTES> = RingBuf::new();

/// TLS sockets that listen, by id. Written by the hooks, read by an agent that starts. Full: no agent
/// serves the listener, and nothing reaches it.
#[btf_map]
pub(crate) static LISTENING: HashMap<u64, Listening, LISTENERS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Cgroups with hooks, by their inode. Written by the agent before it attaches the hooks. A cgroup that is not there
/// makes no TLS sockets by `socket(2)`.
#[btf_map]
pub(crate) static ATTACHED: HashMap<u64, u32, CGROUPS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Threads that are in a `socket(2)` with `IPPROTO_TLS`, by `bpf_get_current_pid_tgid` ([`crate::sock_create`]). Full: the
/// call fails with `EPROTONOSUPPORT`.
#[btf_map]
pub(crate) static SOCKET_CALLS: HashMap<u64, u32, SOCKET_CALLS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Legs of the agent that may reach a listener: whole 4-tuples with their namespace, each used once, and
/// the id that the accepted socket gets. Written by the agent.
#[btf_map]
pub(crate) static LEGS: HashMap<LegKey, u64, LEGS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Events to the agent, in order ([`ssa_common::event`]). Full: counted; a set fails with
/// `ENOBUFS`; a held SYN is reported again when it is sent again.
#[btf_map]
pub(crate) static EVENTS: RingBuf<u64, EVENTS_BYTES> = RingBuf::new();

/// Counters ([`Counter`]), which only ever change by atomic additions.
#[btf_map]
pub(crate) static COUNTERS: Array<u64, { ssa_common::limits::COUNTERS }> = Array::new();

/// The programs that need a living agent, one array for each hook. Never pinned: when the agent
/// dies, however it dies, the kernel empties them, and the hooks' tail calls fall through.
#[btf_map]
pub(crate) static LIVE_SETSOCKOPT: ProgramArray<1> = ProgramArray::new();
#[btf_map]
pub(crate) static LIVE_CONNECT4: ProgramArray<1> = ProgramArray::new();
#[btf_map]
pub(crate) static LIVE_CONNECT6: ProgramArray<1> = ProgramArray::new();

/// What [`COUNTERS`] counts, by index. The agent reads them under the same numbers
/// ([`ssa_common::limits`]).
pub(crate) use ssa_common::limits::Counter;

/// Adds to a counter; `-1` is two's complement.
#[inline(always)]
pub(crate) fn count(counter: Counter, change: i64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        crate::atomic::add(value, change as u64);
    }
}

/// The state of a TLS socket, if it is one.
#[inline(always)]
pub(crate) fn socket_of(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    value_of((&raw const SOCKETS).cast(), sk, 0)
}

/// The state of the Multipath TCP socket whose subflow this is, if a set was tried on it.
///
/// KERNEL: the helper from 5.19; null for any other socket.
#[inline(always)]
pub(crate) fn mptcp_socket_of(subflow: *mut bpf_sock) -> Option<&'static mut Socket> {
    // SAFETY: the helper checks `subflow`.
    let sk = unsafe { bpf_skc_to_mptcp_sock(subflow.cast()) };
    if sk.is_null() { None } else { socket_of(sk.cast()) }
}

/// Whether this is a subflow of a Multipath TCP socket.
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

/// Makes a socket of this hook's cgroup a TLS socket by a rule. It is not counted: when the hooks are detached it becomes
/// a plain one again, as everything does to which the rule applies.
#[inline(always)]
pub(crate) fn make_socket_by_rule(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    let socket = make_uncounted(sk)?;
    socket.by_rule = 1;
    Some(socket)
}

#[inline(always)]
fn make_uncounted(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    let socket: &mut Socket = value_of((&raw const SOCKETS).cast(), sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE))?;
    socket.service = service().id;
    Some(socket)
}

/// A socket has become a TLS socket by its own options.
#[inline(always)]
pub(crate) fn count_socket() {
    count(Counter::Sockets, 1);
    crate::atomic::add(&raw mut service().sockets, 1);
}

/// Makes a TLS socket a plain one. It was left by [`crate::lifecycle::unregister`] before, unless it has just been cloned.
#[inline(always)]
pub(crate) fn delete_socket(sk: *mut bpf_sock) {
    // SAFETY: the helper checks `sk`. Absent is as good.
    unsafe { bpf_sk_storage_delete((&raw const SOCKETS).cast_mut().cast(), sk.cast()) };
}

/// A TLS socket that was made by [`make_socket`] is gone.
#[inline(always)]
pub(crate) fn uncount_socket() {
    count(Counter::Sockets, -1);
    crate::atomic::add(&raw mut service().sockets, u64::MAX);
}

/// The cgroup that this hook is attached to.
#[inline(always)]
pub(crate) fn service() -> &'static mut Service {
    // SAFETY: the kernel has made the value before the hook could run, and it lives as long; the id is read, the count only
    // changed atomically.
    unsafe { &mut *bpf_get_local_storage((&raw const SERVICES).cast_mut().cast(), 0).cast::<Service>() }
}

/// aya's own wrapper takes a `SockAddrContext` only; this one serves all the hooks.
#[inline(always)]
pub(crate) fn storage<T>(map: *const SkStorage<T>, sk: *mut bpf_sock, flags: u64) -> Option<&'static mut T> {
    value_of(map.cast(), sk, flags)
}

#[inline(always)]
fn value_of<T>(map: *const core::ffi::c_void, sk: *mut bpf_sock, flags: u64) -> Option<&'static mut T> {
    // SAFETY: the helper checks `sk`; what it returns is null or a value of the map, which lives as
    // long as the socket, which lives as long as the hook runs. Hooks of one socket run under its
    // lock, or only read.
    unsafe { bpf_sk_storage_get(map.cast_mut(), sk.cast(), core::ptr::null_mut(), flags).cast::<T>().as_mut() }
}
