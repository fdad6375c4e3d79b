//! `setsockopt(2)`: options in.
//!
//! The attached hook is the guard: whatever the option, a fresh TCP socket on which one is set
//! becomes a TLS socket, and is refused from then on unless an agent lives ([`crate::connect`]).

use aya_ebpf::{EbpfContext as _, bindings::bpf_sock, macros::cgroup_sockopt, programs::SockoptContext};
use aya_log_ebpf::debug;
use core::hint::black_box;
use ssa_common::{
    context::{Blob, BlobKey, Context, DEFAULTS, Setting},
    event::{BlobSet, Opened, kind},
    limits::{Counter, OPTION_BYTES},
    phase::tcp_state,
    reason::Reason,
    rule::{self, Rule, place, values},
    socket::{HostName, Socket},
    uapi::{IPPROTO_TLS, TLS_1_2, TLS_1_3},
};

use crate::{
    alpn,
    atomic::Refs,
    connect::caller,
    ctx::{IPPROTO_TCP, Refusal, Sockopt, copy_words, deny, errno, is_mptcp, is_tcp, phase_of, read, refuse},
    hostname,
    maps::{BLOBS, CONTEXTS, EVENTS, FAST_OPEN, IDS, LIVE_SETSOCKOPT, count, make_socket, socket_of, storage},
    sock_release::leave_context,
};

/// Makes sure that the socket is a TLS socket, then lets the living agent's program go on; without
/// one, `ENOTCONN`.
#[cgroup_sockopt(setsockopt)]
fn ssa_setsockopt(ctx: SockoptContext) -> i32 {
    let opt = Sockopt::new(&ctx);
    if opt.level() != IPPROTO_TLS {
        return other_level(opt);
    }
    match mark(opt) {
        Ok(socket) => {
            // SAFETY: the array holds a program of this same type and attach type.
            unsafe { LIVE_SETSOCKOPT.tail_call(&ctx, 0) };
            refuse(Some(socket), Refusal::new(errno::ENOTCONN, Reason::AgentNotRunning))
        }
        Err(errno) => deny(errno),
    }
}

/// Runs after [`ssa_setsockopt`] while the agent lives. Refuses as the option's contract says, and
/// then has changed nothing.
#[cgroup_sockopt(setsockopt)]
fn ssa_live_set(ctx: SockoptContext) -> i32 {
    let opt = Sockopt::new(&ctx);
    let sk = opt.sk();
    let Some(socket) = socket_of(sk) else { return deny(errno::EBADFD) };
    match set(&ctx, opt, sk, socket) {
        Ok(()) => {
            socket.reason = 0;
            debug!(&ctx, "setsockopt: option {} of {}", opt.number(), socket.id);
            opt.done_set()
        }
        Err(refusal) => refuse(Some(socket), refusal),
    }
}

/// `TCP_FASTOPEN_CONNECT` would let `connect` return before anything is verified.
#[inline(always)]
fn other_level(opt: Sockopt) -> i32 {
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    if opt.level() != IPPROTO_TCP as i32 || opt.number() != TCP_FASTOPEN_CONNECT {
        return opt.leave();
    }
    let sk = opt.sk();
    if !is_tcp(sk) {
        return opt.leave();
    }
    let on = u32::from(opt.int().unwrap_or(1) != 0);
    if let Some(socket) = socket_of(sk)
        && on == 1
    {
        return refuse(Some(socket), Refusal::new(errno::EOPNOTSUPP, Reason::FastOpen));
    }
    if let Some(flag) = storage(&raw const FAST_OPEN, sk, u64::from(aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE)) {
        *flag = on;
    }
    opt.leave()
}

/// The TLS socket that a set is for: made one, if it is fresh.
#[inline(always)]
fn mark(opt: Sockopt) -> Result<&'static mut Socket, i32> {
    let sk = opt.sk();
    if !is_tcp(sk) {
        if is_mptcp(sk) && read!(sk, state) == tcp_state::CLOSE {
            doom(sk)?;
        }
        return Err(errno::ENOPROTOOPT);
    }
    if let Some(socket) = socket_of(sk) {
        return Ok(socket);
    }
    if read!(sk, state) != tcp_state::CLOSE {
        return Err(errno::EOPNOTSUPP);
    }
    let socket = make_socket(sk).ok_or(errno::ENOBUFS)?;
    count(Counter::Sockets, 1);
    Ok(socket)
}

/// Keeps a socket that can't speak TLS, but was asked to, from ever connecting.
#[inline(always)]
fn doom(sk: *mut bpf_sock) -> Result<(), i32> {
    if socket_of(sk).is_none() {
        make_socket(sk).ok_or(errno::ENOBUFS)?;
        count(Counter::Sockets, 1);
    }
    Ok(())
}

#[inline(always)]
fn set(ctx: &SockoptContext, opt: Sockopt, sk: *mut bpf_sock, socket: &mut Socket) -> Result<(), Refusal> {
    if socket.id == 0 {
        open(ctx, socket)?;
    }
    let rule = rule_of(opt.number());
    if !Rule::offers(rule.set) {
        return Err(Refusal::new(errno::ENOPROTOOPT, Reason::NotOffered));
    }
    if !phase_of(sk, socket).may_configure() {
        return Err(Refusal::new(errno::EOPNOTSUPP, Reason::WrongPhase));
    }
    let context = CONTEXTS.get_ptr_mut(socket.context).ok_or(LOST)?;
    // SAFETY: a live value of the map, which stays while this socket uses it. Settings are written by
    // its one owner, under that socket's lock, before it is frozen; `refs` only atomically.
    let context = unsafe { &mut *context };
    if rule.place == place::HOST_NAME {
        return set_host_name(opt, socket, context);
    }
    if context.frozen != 0 {
        return Err(Refusal::new(errno::EOPNOTSUPP, Reason::ContextFrozen));
    }
    match rule.place {
        place::ALPN => set_alpn(opt, context),
        place::BLOB => set_blob(ctx, opt, socket, context),
        place::CONTEXT => adopt(ctx, opt, socket),
        place::SETTING => set_scalar(opt, rule, context),
        _ => Err(Refusal::new(errno::ENOPROTOOPT, Reason::NotOffered)),
    }
}

/// Gives a new TLS socket its id and its context.
#[inline(always)]
fn open(ctx: &SockoptContext, socket: &mut Socket) -> Result<(), Refusal> {
    static NEW: Context = new_context();
    let full = Refusal::new(errno::ENOBUFS, Reason::NoRoom);
    let Ok(Some(id)) = IDS.pop() else {
        count(Counter::NoRoom, 1);
        return Err(full);
    };
    let caller = caller(ctx.as_ptr());
    if CONTEXTS.insert(id, &NEW, 0).is_err() {
        count(Counter::NoRoom, 1);
        return Err(full);
    }
    let context = CONTEXTS.get_ptr_mut(id).ok_or(full)?;
    // SAFETY: a live value of the map, whose random id nobody else knows yet.
    let context = unsafe { &mut *context };
    context.service = caller.service;
    context.netns = caller.netns;
    context.uid = caller.uid;
    context.id = id;
    let Some(mut event) = EVENTS.reserve_untyped::<Opened>(0) else {
        count(Counter::EventsLost, 1);
        let _absent = CONTEXTS.remove(id);
        return Err(full);
    };
    event.write(Opened { kind: kind::OPENED, reserved: 0, id, caller });
    event.submit(0);
    socket.id = id;
    socket.context = id;
    Ok(())
}

const fn new_context() -> Context {
    Context {
        id: 0,
        service: 0,
        netns: 0,
        uid: 0,
        refs: 1,
        frozen: 0,
        blob_sets: 0,
        scalars: DEFAULTS,
        hostname: NO_TEXT,
        alpn: NO_TEXT,
    }
}

/// The rule of an option; that of an unknown number offers nothing.
#[inline(always)]
pub(crate) fn rule_of(number: i32) -> Rule {
    let row = number.wrapping_sub(rule::FIRST) as u32 as usize;
    let row = if row < rule::ROWS { row } else { rule::ROWS - 1 };
    // VERIFIER: LLVM would select between two pointers, one of them out of bounds: "R5 unbounded
    // memory access" (6.18, rustc 1.95). The barrier keeps the index, and the mask bounds it.
    rule::RULES[black_box(row) & (rule::ROWS - 1)]
}

#[inline(always)]
fn set_host_name(opt: Sockopt, socket: &mut Socket, context: &mut Context) -> Result<(), Refusal> {
    let len = hostname::check(opt).ok_or(BAD_VALUE)?;
    put_text(opt, &mut socket.hostname, len);
    if context.id == socket.id && context.frozen == 0 {
        copy_words::<HostName, 33>(&raw mut context.hostname, &raw const socket.hostname);
    }
    Ok(())
}

#[inline(always)]
fn set_alpn(opt: Sockopt, context: &mut Context) -> Result<(), Refusal> {
    let len = alpn::check(opt).ok_or(BAD_VALUE)?;
    put_text(opt, &mut context.alpn, len);
    Ok(())
}

/// Stores a text of `len` bytes that was checked, with its NUL; what follows is of an older text,
/// and never read.
#[inline(always)]
fn put_text(opt: Sockopt, text: &mut HostName, len: u32) {
    for index in 0..text.bytes.len() {
        if index as u32 > len {
            break;
        }
        let byte = opt.byte(index).unwrap_or(0);
        // SAFETY: the index is inside the array; volatile, lest the loop become a call of memcpy.
        unsafe { (&raw mut text.bytes).cast::<u8>().add(index).write_volatile(byte) };
    }
    text.len = len;
}

#[inline(always)]
fn set_scalar(opt: Sockopt, rule: Rule, context: &mut Context) -> Result<(), Refusal> {
    if opt.len() != i32::from(rule.size) {
        return Err(BAD_VALUE);
    }
    let value =
        if rule.size == 8 { opt.word(0).ok_or(BAD_VALUE)? as i64 } else { i64::from(opt.int().ok_or(BAD_VALUE)?) };
    if rule.values == values::BOOLEAN && value != 0 && value != 1 {
        return Err(BAD_VALUE);
    }
    if rule.values == values::NOT_NEGATIVE && value < 0 {
        return Err(BAD_VALUE);
    }
    let slot = usize::from(rule.slot) & (context.scalars.len() - 1);
    if rule.values == values::VERSION {
        check_version(value, slot, context)?;
    }
    context.scalars[slot] = value;
    Ok(())
}

/// A version that TLS has had but nobody may use is weaker than the policy; any other number is none.
#[inline(always)]
fn check_version(value: i64, slot: usize, context: &Context) -> Result<(), Refusal> {
    const SSL_3: i64 = 0x0300;
    if (SSL_3..TLS_1_2).contains(&value) {
        return Err(Refusal::new(errno::EPROTO, Reason::Policy));
    }
    let low = slot == Setting::VersionMin as usize;
    let above = low && value > context.scalars[Setting::VersionMax as usize];
    let below = !low && value < context.scalars[Setting::VersionMin as usize];
    if (value != TLS_1_2 && value != TLS_1_3) || above || below {
        return Err(BAD_VALUE);
    }
    Ok(())
}

/// Hands a path or a PEM text to the agent.
#[inline(always)]
fn set_blob(ctx: &SockoptContext, opt: Sockopt, socket: &Socket, context: &mut Context) -> Result<(), Refusal> {
    let len = opt.len();
    if len < 2 || len > OPTION_BYTES as i32 {
        return Err(BAD_VALUE);
    }
    let key = BlobKey { context: context.id, option: opt.number() as u32, sequence: context.blob_sets + 1 };
    put_blob(opt, &key, (len - 1) as usize)?;
    let Some(mut event) = EVENTS.reserve_untyped::<BlobSet>(0) else {
        count(Counter::EventsLost, 1);
        let _absent = BLOBS.remove(key);
        return Err(Refusal::new(errno::ENOBUFS, Reason::NoRoom));
    };
    event.write(BlobSet { kind: kind::BLOB, reserved: 0, id: socket.id, key, caller: caller(ctx.as_ptr()) });
    event.submit(0);
    context.blob_sets += 1;
    Ok(())
}

/// Copies a text of `len` bytes into a map entry of its own, where no other program's hook can
/// touch it. `EINVAL` if it is not one text with one NUL.
#[inline(always)]
fn put_blob(opt: Sockopt, key: &BlobKey, len: usize) -> Result<(), Refusal> {
    static EMPTY: Blob = Blob { len: 0, reserved: 0, bytes: [0; OPTION_BYTES] };
    let full = Refusal::new(errno::ENOBUFS, Reason::NoRoom);
    if BLOBS.insert(key, &EMPTY, 0).is_err() {
        count(Counter::NoRoom, 1);
        return Err(full);
    }
    let blob = BLOBS.get_ptr_mut(key).ok_or(full)?;
    // SAFETY: a live value of the map under a key of this socket, whose lock is held; the agent does
    // not look before the event.
    let blob = unsafe { &mut *blob };
    blob.len = len as u32;
    let to = (&raw mut blob.bytes).cast::<u8>();
    let mut zeros = 0;
    for start in (0..OPTION_BYTES).step_by(8) {
        // VERIFIER: one way out of the loop, and no other branch in it: 512 times two are too many.
        // The barriers keep LLVM from making a branch of the mask.
        let Some(value) = opt.word(start) else { break };
        // SAFETY: inside the array, which is aligned to 8.
        unsafe { to.add(start).cast::<u64>().write_volatile(value) };
        let outside = black_box(black_box(len as i64 - start as i64 - 8) >> 63);
        zeros |= zero_bytes(value) & !outside as u64;
    }
    // VERIFIER: read again, because the way out of the loop says something of the length.
    let len = (opt.len() - 1) as usize;
    let tail = len & (OPTION_BYTES - 8);
    for index in 0..8 {
        let at = (tail + index) & (OPTION_BYTES - 1);
        if at >= len {
            break;
        }
        let Some(value) = opt.byte(at) else { break };
        zeros |= zero_bytes(u64::from(value) | !0xff);
        // SAFETY: masked to the array's length.
        unsafe { to.add(at).write_volatile(value) };
    }
    if zeros != 0 || opt.byte(len & (OPTION_BYTES - 1)) != Some(0) {
        let _absent = BLOBS.remove(key);
        return Err(BAD_VALUE);
    }
    Ok(())
}

/// Not zero if one of a word's bytes is.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080
}

/// Takes another context instead of the socket's own.
#[inline(always)]
fn adopt(ctx: &SockoptContext, opt: Sockopt, socket: &mut Socket) -> Result<(), Refusal> {
    let unknown = Refusal::new(errno::EINVAL, Reason::ContextUnknown);
    if opt.len() != 8 {
        return Err(BAD_VALUE);
    }
    let id = opt.word(0).ok_or(BAD_VALUE)?;
    let target = CONTEXTS.get_ptr_mut(id).ok_or(unknown)?;
    // SAFETY: a live value of the map; `refs` is only accessed atomically, the rest is compared below.
    let target = unsafe { &mut *target };
    let caller = caller(ctx.as_ptr());
    if target.uid != caller.uid || target.service != caller.service || target.netns != caller.netns {
        return Err(unknown);
    }
    if id == socket.context {
        target.frozen = 1;
        return Ok(());
    }
    if !Refs::new(&raw mut target.refs).join() {
        return Err(unknown);
    }
    // The last socket may just have closed, and the entry be another context's by now.
    if target.id != id {
        leave_context(target.id);
        return Err(unknown);
    }
    target.frozen = 1;
    leave_context(socket.context);
    socket.context = id;
    copy_words::<HostName, 33>(&raw mut socket.hostname, &raw const target.hostname);
    Ok(())
}

const NO_TEXT: HostName = HostName { bytes: [0; ssa_common::limits::HOSTNAME_BYTES], len: 0, reserved: 0 };
const BAD_VALUE: Refusal = Refusal::new(errno::EINVAL, Reason::BadValue);
const LOST: Refusal = Refusal::new(errno::EBADFD, Reason::ContextUnknown);
