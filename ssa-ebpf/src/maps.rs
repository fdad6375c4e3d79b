//! Maps of the hooks: key -> value, capacity, who writes, who reads, and what happens when it is full. Hash maps are
//! without preallocation: what is not used costs nothing.

use aya_ebpf::{
    bindings::{
        BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE, bpf_sock,
    },
    btf_maps::{Array, HashMap, LpmTrie, ProgramArray, Queue, RingBuf, SkStorage},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get, bpf_skc_to_mptcp_sock},
    macros::btf_map,
};
use ssa_common::{
    certificate::{Certificate, Chain, Digest},
    cgroup::Cgroup,
    cipher::{CIPHERS as CIPHERS_MAX, CipherList, CipherName, CipherSet},
    connection::Connection,
    context::{Blob, BlobKey, Context, KeptPath},
    event::Listening,
    limits::{
        BARRED_CAPACITY, BLOBS_CAPACITY, CERTIFICATES_CAPACITY, CGROUPS_CAPACITY, DNS_BYTES, EVENTS_BYTES,
        IDS_CAPACITY, LEGS_CAPACITY, LISTENERS_CAPACITY, OPTION_BYTES, PARKED_BYTES, PATHS_CAPACITY, POLICIES_CAPACITY,
        RULE_ADDRESSES_CAPACITY, RULE_PORTS_CAPACITY, SCRATCH_CAPACITY, SOCKET_CALLS_CAPACITY, SOCKETS_CAPACITY,
        USERS_CAPACITY,
    },
    policy::{Policy, PolicyKey},
    rule::{Action, AddressKey, Groups, PortKey},
    socket::{Caller, Socket},
    steer::LegKey,
};

/// Flag of hash maps whose entries are allocated when they are made.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Decisions on cgroups ([`ssa_common::cgroup`]): inode -> service, rules, flags. Every cgroup of the machine is here as
/// soon as the agent has seen it, and what counts for others under [`ssa_common::cgroup::UNDECIDED`]. `CGROUPS_CAPACITY`
/// entries. Written by the agent, each entry in one step; read by all hooks of calls, ingress and sock_ops. Full:
/// cgroups that are missing stay undecided, and each of their connects waits for the agent.
#[btf_map]
pub(crate) static CGROUPS: HashMap<u64, Cgroup, CGROUPS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Cgroups that agents serve, shared by all agents of this version: inode -> number of the agent
/// ([`ssa_common::cgroup::owner`]). `CGROUPS_CAPACITY` entries. Written by agents, each its own; read where a cgroup is
/// undecided: what another agent serves is left alone, also by the guards of one that has ended. Full: an agent's
/// guards may take up what another one serves, for as long as it is undecided.
#[btf_map]
pub(crate) static OWNERS: HashMap<u64, u64, CGROUPS_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Open TLS sockets of services, by their own options or by a rule: service -> count. `CGROUPS_CAPACITY` entries. Counted by the
/// hooks; the agent deletes those of zero when there are many. Full: not counted, which only the list of services
/// shows.
#[btf_map]
pub(crate) static SERVICES: HashMap<u64, u64, CGROUPS_CAPACITY, NO_PREALLOC> = HashMap::new();

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
/// `setsockopt`, read by `connect`. Full (`net.core.optmem_max`): the set fails with `ENOBUFS` where rules could be.
#[btf_map]
pub(crate) static FAST_OPEN: SkStorage<u32> = SkStorage::new();

/// Sockets that were to become TLS sockets and had no room for their state (`net.core.optmem_max`): address of the
/// kernel's socket -> 1. They never connect, and nothing reaches them while they listen. `BARRED_CAPACITY` entries.
/// Written by `setsockopt`, read by `connect`, `bind` and ingress, deleted at `close`. Full: counted, and the socket
/// stays as it was.
#[btf_map]
static BARRED: HashMap<u64, u32, BARRED_CAPACITY, NO_PREALLOC> = HashMap::new();

/// Bars a socket from ever connecting: an application that goes on although its set failed must not speak plaintext.
#[inline(always)]
pub(crate) fn bar(sk: *mut bpf_sock) {
    if BARRED.insert(sk as u64, 1, 0).is_err() {
        count(Counter::NoRoom, 1);
    }
}

/// True if [`bar`] was called for a socket.
#[inline(always)]
pub(crate) fn is_barred(sk: *mut bpf_sock) -> bool {
    BARRED.get_ptr_mut(sk as u64).is_some()
}

/// Forgets a socket that is closed for the last time. Absent is as good.
#[inline(always)]
pub(crate) fn unbar(sk: *mut bpf_sock) {
    if is_barred(sk) {
        let _there = BARRED.remove(sk as u64);
    }
}

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

/// Networks of sets of rules: set and prefix of an address -> groups, a trie of the longest prefix.
/// `RULE_ADDRESSES_CAPACITY` entries. Written by the agent, read as [`CGROUPS`]. Full: the agent refuses the
/// configuration.
#[btf_map]
pub(crate) static RULE_ADDRESSES: LpmTrie<AddressKey, Groups, RULE_ADDRESSES_CAPACITY> = LpmTrie::new();

/// Actions of rules: group, traffic and prefix of a port -> [`Action`], a trie of the longest prefix.
/// `RULE_PORTS_CAPACITY` entries. Written by the agent, read as [`CGROUPS`]. Full: the agent refuses the
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

/// SYNs that came to listening TLS sockets before anybody served them ([`ssa_common::event::Parked`]): a ring buffer of
/// `PARKED_BYTES`. Written by ingress, at most `PARKED_MAX` for a listener; read by the agent. Full: the client sends its
/// SYN again, after a second.
#[btf_map]
pub(crate) static PARKED: RingBuf<u64, PARKED_BYTES> = RingBuf::new();

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

/// Makes a socket a TLS socket of a service by its own options. None if there is no room.
#[inline(always)]
pub(crate) fn make_socket(sk: *mut bpf_sock, service: u64) -> Option<&'static mut Socket> {
    let socket = make_socket_by_rule(sk, service)?;
    by_options(socket);
    Some(socket)
}

/// Makes a socket a TLS socket of a service by a rule: what it is goes by the rule, anew at each connect. None if there
/// is no room.
#[inline(always)]
pub(crate) fn make_socket_by_rule(sk: *mut bpf_sock, service: u64) -> Option<&'static mut Socket> {
    let socket: &mut Socket = value_of((&raw const SOCKETS).cast(), sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE))?;
    socket.by_rule = 1;
    socket.service = service;
    count_socket(service);
    Some(socket)
}

/// Notes that a TLS socket goes by its own options from now on, whatever rules say.
#[inline(always)]
pub(crate) fn by_options(socket: &mut Socket) {
    socket.by_rule = 0;
    count(Counter::Sockets, 1);
}

/// Notes that a TLS socket by a rule is another service's now: it was passed on, or the agent has decided since.
#[inline(always)]
pub(crate) fn move_socket(socket: &mut Socket, service: u64) {
    if socket.service != service {
        uncount_socket(socket.service);
        count_socket(service);
        socket.service = service;
    }
}

/// Counts a TLS socket of a service.
#[inline(always)]
fn count_socket(service: u64) {
    const BPF_NOEXIST: u64 = 1;
    if SERVICES.get_ptr_mut(service).is_none() {
        // It may have been made meanwhile.
        let _there = SERVICES.insert(service, 0, BPF_NOEXIST);
    }
    if let Some(open) = SERVICES.get_ptr_mut(service) {
        crate::atomic::add(open, 1);
    }
}

/// Makes a TLS socket a plain one. It was unregistered ([`crate::lifecycle::unregister`]) before, unless it has just
/// been cloned.
#[inline(always)]
pub(crate) fn delete_socket(sk: *mut bpf_sock) {
    // SAFETY: the helper checks `sk`. Absent is as good.
    unsafe { bpf_sk_storage_delete((&raw const SOCKETS).cast_mut().cast(), sk.cast()) };
}

/// Counts out a TLS socket that is closed for the last time, or a plain one again.
#[inline(always)]
pub(crate) fn forget_socket(socket: &Socket) {
    if socket.by_rule == 0 {
        count(Counter::Sockets, -1);
    }
    uncount_socket(socket.service);
}

#[inline(always)]
fn uncount_socket(service: u64) {
    let Some(open) = SERVICES.get_ptr_mut(service) else { return };
    // SAFETY: a live value of the map. Not below zero: the agent may just have forgotten the service.
    if unsafe { open.read_volatile() } != 0 {
        crate::atomic::add(open, u64::MAX);
    }
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
