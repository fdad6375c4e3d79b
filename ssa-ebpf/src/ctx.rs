//! The hooks' contexts, and the kernel's sockets in them, as typed values.
//!
//! VERIFIER: every field is read ([`crate::address`]) and written alone and volatile. Otherwise LLVM merges neighbours,
//! and the verifier refuses ("invalid bpf_context access", "dereference of modified ctx ptr").

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr, bpf_sockopt},
    programs::{SockAddrContext, SockoptContext},
};
use ssa_common::{
    limits::OPTION_BYTES,
    phase::{self, Phase, TcpState},
    socket::{Endpoint, Socket},
};

use crate::{
    address::{AF_INET, bytes, mapped, read, read_words},
    refusal::ALLOW,
};

/// Level of the options of all sockets (`include/linux/socket.h`).
pub(crate) const SOL_SOCKET: i32 = 1;
/// Address family IPv6 (`include/linux/socket.h`).
pub(crate) const AF_INET6: u32 = 10;
/// Type of stream sockets (`include/linux/net.h`).
pub(crate) const SOCK_STREAM: u32 = 1;
/// Protocol TCP (`include/uapi/linux/in.h`), and the level of its options.
pub(crate) const IPPROTO_TCP: u32 = 6;
/// Protocol UDP (`include/uapi/linux/in.h`).
const IPPROTO_UDP: u32 = 17;
/// Protocol of Multipath TCP (`include/uapi/linux/in.h`, RFC 8684).
const IPPROTO_MPTCP: u32 = 262;

/// Writes one field of a hook's context: `put!(pointer, field, value)`.
macro_rules! put {
    ($pointer:expr, $field:ident, $value:expr) => {{
        let pointer = $pointer;
        // SAFETY: as `read!`; the verifier knows which fields may be written.
        unsafe { core::ptr::write_volatile(&raw mut (*pointer).$field, $value) }
    }};
}

/// True if options of TLS exist for this socket at all: a TCP socket, not MPTCP, SMC, UDP, unix.
#[inline(always)]
pub(crate) fn is_tcp(sk: *mut bpf_sock) -> bool {
    is_stream(sk, IPPROTO_TCP)
}

/// True if this is a socket of Multipath TCP: it connects through another one, its first subflow.
#[inline(always)]
pub(crate) fn is_mptcp(sk: *mut bpf_sock) -> bool {
    is_stream(sk, IPPROTO_MPTCP)
}

/// True if this is a UDP socket.
#[inline(always)]
pub(crate) fn is_udp(sk: *mut bpf_sock) -> bool {
    let family = read!(sk, family);
    (family == AF_INET || family == AF_INET6) && read!(sk, protocol) == IPPROTO_UDP
}

/// True if this is a stream socket of IPv4 or IPv6 with a protocol.
#[inline(always)]
fn is_stream(sk: *mut bpf_sock, protocol: u32) -> bool {
    let family = read!(sk, family);
    (family == AF_INET || family == AF_INET6) && read!(sk, type_) == SOCK_STREAM && read!(sk, protocol) == protocol
}

/// State of a TCP socket as the kernel has it.
#[inline(always)]
pub(crate) fn tcp_state(sk: *mut bpf_sock) -> TcpState {
    TcpState::from_kernel(read!(sk, state))
}

/// Phase of a TLS socket, from the kernel's state of it.
#[inline(always)]
pub(crate) fn phase_of(sk: *mut bpf_sock, socket: &Socket) -> Phase {
    phase::derive(tcp_state(sk), socket.outcome, read!(sk, dst_port) != 0)
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

/// Context of `setsockopt` or `getsockopt`.
#[derive(Clone, Copy)]
pub(crate) struct Sockopt(*mut bpf_sockopt);

impl Sockopt {
    /// Wraps the context of a hook.
    #[inline(always)]
    pub(crate) fn new(ctx: &SockoptContext) -> Self {
        Self(ctx.sockopt)
    }

    /// Socket of the call.
    #[inline(always)]
    pub(crate) fn sk(self) -> *mut bpf_sock {
        // SAFETY: as `read!`; a union with one member.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).__bindgen_anon_1.sk) }
    }

    /// Level of the option.
    #[inline(always)]
    pub(crate) fn level(self) -> i32 {
        read!(self.0, level)
    }

    /// Number of the option.
    #[inline(always)]
    pub(crate) fn number(self) -> i32 {
        read!(self.0, optname)
    }

    /// Length of the value as the caller gave it, in bytes.
    #[inline(always)]
    pub(crate) fn len(self) -> i32 {
        read!(self.0, optlen)
    }

    /// Byte of the value at `index`; none if it is not visible.
    #[inline(always)]
    pub(crate) fn byte(self, index: usize) -> Option<u8> {
        self.at::<u8>(index).map(|pointer| {
            // SAFETY: `at` has compared the pointer with the end.
            unsafe { pointer.read_volatile() }
        })
    }

    /// Eight bytes of the value at `index`, host byte order; none if they are not visible.
    #[inline(always)]
    pub(crate) fn word(self, index: usize) -> Option<u64> {
        self.at::<u64>(index).map(|pointer| {
            // SAFETY: `at` has compared the pointer with the end; BPF reads unaligned words.
            unsafe { pointer.read_volatile() }
        })
    }

    /// First 4 bytes of the value as a number, host byte order; none if they are not visible.
    #[inline(always)]
    pub(crate) fn int(self) -> Option<i32> {
        self.at::<i32>(0).map(|pointer| {
            // SAFETY: as `word`.
            unsafe { pointer.read_volatile() }
        })
    }

    /// Puts a value into the answer at `index`, host byte order. False, and nothing is written, without room.
    #[inline(always)]
    pub(crate) fn put<T>(self, index: usize, value: T) -> bool {
        self.at::<T>(index).is_some_and(|pointer| {
            // SAFETY: as `word`.
            unsafe { pointer.write_volatile(value) };
            true
        })
    }

    /// Verdict: the value was taken; the kernel's own handler is skipped.
    #[inline(always)]
    pub(crate) fn done_set(self) -> i32 {
        put!(self.0, optlen, -1);
        ALLOW
    }

    /// Verdict: the kernel's own handler has its way, with the caller's own value.
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

    /// Verdict: an answer of `len` bytes was put; the call succeeds.
    #[inline(always)]
    pub(crate) fn done_get(self, len: i32) -> i32 {
        put!(self.0, optlen, len);
        put!(self.0, retval, 0);
        ALLOW
    }

    /// Pointer to a `T` at `index` of the value; none if not all of it is visible.
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

/// Context of `connect`, `bind`, `sendmsg`, `getpeername` or `getsockname`.
#[derive(Clone, Copy)]
pub(crate) struct SockAddr(*mut bpf_sock_addr);

impl SockAddr {
    /// Wraps the context of a hook.
    #[inline(always)]
    pub(crate) fn new(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr)
    }

    /// Socket of the call.
    #[inline(always)]
    pub(crate) fn sk(self) -> *mut bpf_sock {
        // SAFETY: as `read!`; a union with one member.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).__bindgen_anon_1.sk) }
    }

    /// IPv4 address and port of the call, as an endpoint.
    #[inline(always)]
    pub(crate) fn endpoint4(self) -> Endpoint {
        Endpoint { addr: mapped(read!(self.0, user_ip4)), port: self.port(), reserved: 0, scope: 0 }
    }

    /// IPv6 address and port of the call, as an endpoint.
    #[inline(always)]
    pub(crate) fn endpoint6(self) -> Endpoint {
        Endpoint { addr: bytes(read_words!(self.0, user_ip6)), port: self.port(), reserved: 0, scope: 0 }
    }

    /// Puts another address (network byte order) and port (host byte order) in the place of the call's, over IPv4.
    #[inline(always)]
    pub(crate) fn set4(self, addr: u32, port: u16) {
        put!(self.0, user_ip4, addr);
        put!(self.0, user_port, u32::from(port.to_be()));
    }

    /// Puts another address (network byte order) and port (host byte order) in the place of the call's, over IPv6.
    #[inline(always)]
    pub(crate) fn set6(self, addr: [u32; 4], port: u16) {
        for (index, word) in addr.into_iter().enumerate() {
            // SAFETY: as `put!`.
            unsafe { core::ptr::write_volatile(&raw mut (*self.0).user_ip6[index], word) };
        }
        put!(self.0, user_port, u32::from(port.to_be()));
    }

    /// Port of the call, host byte order.
    #[inline(always)]
    fn port(self) -> u16 {
        u16::from_be(read!(self.0, user_port) as u16)
    }
}

/// Address and port that a socket is bound to, with the index of its interface as scope.
#[inline(always)]
pub(crate) fn bound(sk: *mut bpf_sock, family: u32) -> Endpoint {
    // VERIFIER: both first; reads in the arms of an `if` are merged into one with a variable offset.
    let v4 = mapped(read!(sk, src_ip4));
    let v6 = bytes(read_words!(sk, src_ip6));
    let addr = if family == AF_INET { v4 } else { v6 };
    Endpoint { addr, port: read!(sk, src_port) as u16, reserved: 0, scope: read!(sk, bound_dev_if) }
}

/// Words of an address, as contexts want them: network byte order.
#[inline(always)]
pub(crate) const fn words(addr: [u8; 16]) -> [u32; 4] {
    // SAFETY: both are plain data of 16 bytes.
    unsafe { core::mem::transmute(addr) }
}
