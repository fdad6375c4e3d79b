//! The only raw reads and writes of hook contexts.
//!
//! VERIFIER: every field is read and written alone and volatile. Otherwise LLVM merges neighbours,
//! and the verifier refuses ("invalid bpf_context access", "dereference of modified ctx ptr").

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr, bpf_sockopt},
    helpers::generated::bpf_set_retval,
    programs::{SockAddrContext, SockoptContext},
};
use ssa_common::{
    limits::OPTION_BYTES,
    phase::{self, Phase},
    reason::Reason,
    socket::{Endpoint, Socket},
};

/// Let the call go on.
pub(crate) const ALLOW: i32 = 1;
/// Refuse the call, or drop the packet.
pub(crate) const DENY: i32 = 0;

/// Level of the options of all sockets (`include/linux/socket.h`).
pub(crate) const SOL_SOCKET: i32 = 1;
pub(crate) const AF_INET: u32 = 2;
pub(crate) const AF_INET6: u32 = 10;
pub(crate) const SOCK_STREAM: u32 = 1;
pub(crate) const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_MPTCP: u32 = 262;

/// Errnos (`include/uapi/asm-generic/errno.h`).
pub(crate) mod errno {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EACCES: i32 = 13;
    pub(crate) const EFAULT: i32 = 14;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const EPROTO: i32 = 71;
    pub(crate) const EBADFD: i32 = 77;
    pub(crate) const EMSGSIZE: i32 = 90;
    pub(crate) const ENOPROTOOPT: i32 = 92;
    pub(crate) const EPROTONOSUPPORT: i32 = 93;
    pub(crate) const EOPNOTSUPP: i32 = 95;
    pub(crate) const ENOBUFS: i32 = 105;
    pub(crate) const ENOTCONN: i32 = 107;
}

/// A refusal: its errno, and what `TLS_ERROR` will say.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) reason: Reason,
}

impl Refusal {
    #[inline(always)]
    pub(crate) const fn new(errno: i32, reason: Reason) -> Self {
        Self { errno, reason }
    }
}

/// Ends a call with `-errno`.
///
/// KERNEL: `bpf_set_retval` from 5.18, in connect hooks from 6.1.
#[inline(always)]
pub(crate) fn deny(errno: i32) -> i32 {
    // SAFETY: the helper takes any value of 0 or -MAX_ERRNO..-1.
    unsafe { bpf_set_retval(-errno) };
    DENY
}

/// Ends a call as `refusal` says, and keeps the reason with the socket.
#[inline(always)]
pub(crate) fn refuse(socket: Option<&mut Socket>, refusal: Refusal) -> i32 {
    if let Some(socket) = socket {
        socket.reason = refusal.reason as u32;
    }
    deny(refusal.errno)
}

macro_rules! read {
    ($pointer:expr, $field:ident) => {{
        let pointer = $pointer;
        // SAFETY: the kernel's context and socket outlive the hook; the verifier checks the offset.
        unsafe { core::ptr::read_volatile(&raw const (*pointer).$field) }
    }};
}
pub(crate) use read;

macro_rules! put {
    ($pointer:expr, $field:ident, $value:expr) => {{
        let pointer = $pointer;
        // SAFETY: as `read!`; the verifier knows which fields may be written.
        unsafe { core::ptr::write_volatile(&raw mut (*pointer).$field, $value) }
    }};
}

/// Whether options of TLS exist for this socket at all: a TCP socket, not MPTCP, SMC, UDP, unix.
#[inline(always)]
pub(crate) fn is_tcp(sk: *mut bpf_sock) -> bool {
    is_stream(sk, IPPROTO_TCP)
}

/// Whether this is a socket of Multipath TCP: it connects through another one, its first subflow.
#[inline(always)]
pub(crate) fn is_mptcp(sk: *mut bpf_sock) -> bool {
    is_stream(sk, IPPROTO_MPTCP)
}

/// Whether this is a UDP socket.
#[inline(always)]
pub(crate) fn is_udp(sk: *mut bpf_sock) -> bool {
    let family = read!(sk, family);
    (family == AF_INET || family == AF_INET6) && read!(sk, protocol) == IPPROTO_UDP
}

#[inline(always)]
fn is_stream(sk: *mut bpf_sock, protocol: u32) -> bool {
    let family = read!(sk, family);
    (family == AF_INET || family == AF_INET6) && read!(sk, type_) == SOCK_STREAM && read!(sk, protocol) == protocol
}

/// The phase of a TLS socket.
#[inline(always)]
pub(crate) fn phase_of(sk: *mut bpf_sock, socket: &Socket) -> Phase {
    phase::derive(read!(sk, state), socket.outcome, read!(sk, dst_port) != 0)
}

/// Copies words of 8 bytes.
///
/// VERIFIER: a plain copy of so much becomes a call of `memcpy`, whose byte loop costs 30 times as
/// many instructions.
#[inline(always)]
pub(crate) fn copy_words<T, const WORDS: usize>(to: *mut T, from: *const T) {
    const {
        assert!(size_of::<T>() == WORDS * 8);
    }
    for word in 0..WORDS {
        // SAFETY: both point to a `T`, which has this many words; the hooks' values are 8-aligned.
        unsafe { to.cast::<u64>().add(word).write_volatile(from.cast::<u64>().add(word).read_volatile()) };
    }
}

/// The context of a `setsockopt` or `getsockopt`.
#[derive(Clone, Copy)]
pub(crate) struct Sockopt(*mut bpf_sockopt);

impl Sockopt {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockoptContext) -> Self {
        Self(ctx.sockopt)
    }

    #[inline(always)]
    pub(crate) fn sk(self) -> *mut bpf_sock {
        // SAFETY: as `read!`; a union with one member.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).__bindgen_anon_1.sk) }
    }

    #[inline(always)]
    pub(crate) fn level(self) -> i32 {
        read!(self.0, level)
    }

    #[inline(always)]
    pub(crate) fn number(self) -> i32 {
        read!(self.0, optname)
    }

    /// Length of the value as the caller gave it, in bytes.
    #[inline(always)]
    pub(crate) fn len(self) -> i32 {
        read!(self.0, optlen)
    }

    /// The value's byte at `index`, if it is visible.
    #[inline(always)]
    pub(crate) fn byte(self, index: usize) -> Option<u8> {
        self.at::<u8>(index).map(|pointer| {
            // SAFETY: `at` has compared the pointer with the end.
            unsafe { pointer.read_volatile() }
        })
    }

    /// The value's 8 bytes at `index`, if they are visible.
    #[inline(always)]
    pub(crate) fn word(self, index: usize) -> Option<u64> {
        self.at::<u64>(index).map(|pointer| {
            // SAFETY: `at` has compared the pointer with the end; BPF reads unaligned words.
            unsafe { pointer.read_volatile() }
        })
    }

    /// The value's first 4 bytes as a number.
    #[inline(always)]
    pub(crate) fn int(self) -> Option<i32> {
        self.at::<i32>(0).map(|pointer| {
            // SAFETY: as `word`.
            unsafe { pointer.read_volatile() }
        })
    }

    /// Puts a byte into the answer, if there is room.
    #[inline(always)]
    pub(crate) fn put<T>(self, index: usize, value: T) -> bool {
        self.at::<T>(index).is_some_and(|pointer| {
            // SAFETY: as `word`.
            unsafe { pointer.write_volatile(value) };
            true
        })
    }

    /// A value was taken: the kernel's own handler is skipped.
    #[inline(always)]
    pub(crate) fn done_set(self) -> i32 {
        put!(self.0, optlen, -1);
        ALLOW
    }

    /// The kernel's own handler is to have its way, with the caller's own value.
    ///
    /// KERNEL: before 6.5 a hook that leaves a length of over one page as it is makes the call fail
    /// with `EFAULT`; zero says that the value was not touched.
    #[inline(always)]
    pub(crate) fn leave(self) -> i32 {
        if self.len() > OPTION_BYTES as i32 {
            put!(self.0, optlen, 0);
        }
        ALLOW
    }

    /// An answer of `len` bytes was put.
    #[inline(always)]
    pub(crate) fn done_get(self, len: i32) -> i32 {
        put!(self.0, optlen, len);
        put!(self.0, retval, 0);
        ALLOW
    }

    #[inline(always)]
    fn at<T>(self, index: usize) -> Option<*mut T> {
        // SAFETY: as `read!`; unions with one member.
        let (start, end) = unsafe {
            (
                core::ptr::read_volatile(&raw const (*self.0).__bindgen_anon_2.optval) as usize,
                core::ptr::read_volatile(&raw const (*self.0).__bindgen_anon_3.optval_end) as usize,
            )
        };
        let pointer = start + index;
        if pointer + size_of::<T>() > end { None } else { Some(pointer as *mut T) }
    }
}

/// The context of `connect`, `getpeername` or `getsockname`.
#[derive(Clone, Copy)]
pub(crate) struct SockAddr(*mut bpf_sock_addr);

impl SockAddr {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr)
    }

    #[inline(always)]
    pub(crate) fn sk(self) -> *mut bpf_sock {
        // SAFETY: as `read!`; a union with one member.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).__bindgen_anon_1.sk) }
    }

    /// The IPv4 address and port, as an endpoint.
    #[inline(always)]
    pub(crate) fn endpoint4(self) -> Endpoint {
        Endpoint { addr: mapped(read!(self.0, user_ip4)), port: self.port(), reserved: 0, scope: 0 }
    }

    /// The IPv6 address and port, as an endpoint.
    #[inline(always)]
    pub(crate) fn endpoint6(self) -> Endpoint {
        let mut words = [0u32; 4];
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: as `read!`.
            *word = unsafe { core::ptr::read_volatile(&raw const (*self.0).user_ip6[index]) };
        }
        Endpoint { addr: bytes(words), port: self.port(), reserved: 0, scope: 0 }
    }

    #[inline(always)]
    pub(crate) fn set4(self, addr: u32, port: u16) {
        put!(self.0, user_ip4, addr);
        put!(self.0, user_port, u32::from(port.to_be()));
    }

    #[inline(always)]
    pub(crate) fn set6(self, addr: [u32; 4], port: u16) {
        for (index, word) in addr.into_iter().enumerate() {
            // SAFETY: as `write!`.
            unsafe { core::ptr::write_volatile(&raw mut (*self.0).user_ip6[index], word) };
        }
        put!(self.0, user_port, u32::from(port.to_be()));
    }

    #[inline(always)]
    fn port(self) -> u16 {
        u16::from_be(read!(self.0, user_port) as u16)
    }
}

/// The address that a socket is bound to.
#[inline(always)]
pub(crate) fn bound(sk: *mut bpf_sock, family: u32) -> Endpoint {
    // VERIFIER: both first; reads in the arms of an `if` are merged into one with a variable offset.
    let v4 = mapped(read!(sk, src_ip4));
    let mut words = [0u32; 4];
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: as `read!`.
        *word = unsafe { core::ptr::read_volatile(&raw const (*sk).src_ip6[index]) };
    }
    let addr = if family == AF_INET { v4 } else { bytes(words) };
    Endpoint { addr, port: read!(sk, src_port) as u16, reserved: 0, scope: read!(sk, bound_dev_if) }
}

/// An IPv4 address, network byte order, as v4-mapped IPv6.
#[inline(always)]
pub(crate) fn mapped(addr: u32) -> [u8; 16] {
    bytes([0, 0, 0xffff_u32.to_be(), addr])
}

#[inline(always)]
pub(crate) const fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are plain data of 16 bytes.
    unsafe { core::mem::transmute(words) }
}

/// The words of an address, as contexts want them.
#[inline(always)]
pub(crate) const fn words(addr: [u8; 16]) -> [u32; 4] {
    // SAFETY: both are plain data of 16 bytes.
    unsafe { core::mem::transmute(addr) }
}
