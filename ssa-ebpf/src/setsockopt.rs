//! `setsockopt(2)`: options in.
//!
//! The attached hook is the guard: whatever the option, a fresh TCP socket on which one is set
//! becomes a TLS socket, and is refused from then on unless an agent lives ([`crate::connect`]).

use aya_ebpf::{EbpfContext as _, bindings::bpf_sock, macros::cgroup_sockopt, programs::SockoptContext};
use aya_log_ebpf::debug;
use ssa_common::{
    context::{Blob, BlobKey, Context, Setting},
    event::{BlobSet, EventKind},
    limits::{BLOB_SETS_MAX, Counter, OPTION_BYTES},
    option_row::{OptionRow, PlaceId, ValueRange},
    phase::TcpState,
    reason::Reason,
    socket::{HostName, Socket},
    uapi::{IPPROTO_TLS, TLS_1_2, TLS_1_3, TLS_TRUSTED_PEER_CERTIFICATES},
};

use crate::{
    alpn,
    atomic::Refs,
    caller::caller,
    cgroups, ciphers,
    ctx::{IPPROTO_TCP, Sockopt, copy_words, is_mptcp, is_tcp, phase_of, tcp_state},
    hostname,
    lifecycle::{register, release_context},
    maps::{
        BLOBS, CONTEXTS, EVENTS, FAST_OPEN, LIVE_SETSOCKOPT, bar, by_options, count, make_socket, socket_of, storage,
    },
    option_row::option_row,
    peer_options, policy,
    refusal::{AGENT_AWAY, ALLOW, BAD_VALUE, NO_ROOM, Refusal, WEAKER, deny, errno, refuse},
    text,
};

/// Makes sure that the socket is a TLS socket, then goes on in the living agent's program; `ENOTCONN` without one.
#[cgroup_sockopt(setsockopt)]
fn ssa_setsockopt(ctx: SockoptContext) -> i32 {
    let opt = Sockopt::new(&ctx);
    if opt.level() != IPPROTO_TLS {
        return other_level(opt);
    }
    match socket_for_set(opt) {
        Ok(socket) => {
            // SAFETY: the array holds programs of this same type and attach type.
            unsafe { LIVE_SETSOCKOPT.tail_call(&ctx, 0) };
            refuse(Some(socket), AGENT_AWAY)
        }
        Err(verdict) => verdict,
    }
}

/// Runs after [`ssa_setsockopt`] while the agent lives. Refuses as the option's contract says, and
/// then has changed nothing.
#[cgroup_sockopt(setsockopt)]
fn ssa_live_set(ctx: SockoptContext) -> i32 {
    let opt = Sockopt::new(&ctx);
    let Some(socket) = socket_of(opt.sk()) else { return deny(errno::EBADFD) };
    match set(&ctx, opt, socket) {
        Ok(()) => {
            socket.reason = 0;
            debug!(ctx, "setsockopt: option {} of {}", opt.number(), socket.id);
            opt.done_set()
        }
        Err(refusal) => refuse(Some(socket), refusal),
    }
}

/// Options of other levels: `TCP_FASTOPEN_CONNECT` is refused on a TLS socket with `EOPNOTSUPP`, as it would let
/// `connect` return before anything is verified.
#[inline(always)]
fn other_level(opt: Sockopt) -> i32 {
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    if opt.level() != IPPROTO_TCP as i32 || opt.number() != TCP_FASTOPEN_CONNECT {
        if peer_options::changes_interface(opt) {
            return deny(errno::EPERM);
        }
        peer_options::report_change(opt);
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
    match storage(&raw const FAST_OPEN, sk, u64::from(aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE)) {
        Some(flag) => *flag = on,
        // A rule could make it a TLS socket.
        None if on == 1 && cgroups::of_caller().service != 0 => return deny(errno::ENOBUFS),
        None => {}
    }
    opt.leave()
}

/// Finds the TLS socket that a set is for; a fresh TCP socket of a service becomes one. Else the verdict of the hook:
/// the kernel's own answer where nobody serves the caller.
#[inline(always)]
fn socket_for_set(opt: Sockopt) -> Result<&'static mut Socket, i32> {
    let sk = opt.sk();
    if let Some(socket) = socket_of(sk)
        && is_tcp(sk)
    {
        if socket.by_rule != 0 && tcp_state(sk) == TcpState::CLOSE {
            by_options(socket);
        }
        return Ok(socket);
    }
    let decision = cgroups::of_caller();
    if decision.service == 0 {
        // Another agent may serve it: the length stays as it is, too.
        return Err(ALLOW);
    }
    if !is_tcp(sk) {
        if is_mptcp(sk) && tcp_state(sk) == TcpState::CLOSE {
            // It can't speak TLS, but was asked to: it is kept from ever connecting.
            make_fresh(sk, decision.service)?;
        }
        return Err(deny(errno::ENOPROTOOPT));
    }
    if tcp_state(sk) != TcpState::CLOSE {
        return Err(deny(errno::EOPNOTSUPP));
    }
    let socket = make_fresh(sk, decision.service)?;
    if decision.closed { Err(refuse(Some(socket), AGENT_AWAY)) } else { Ok(socket) }
}

/// Makes a socket that is not connected a TLS socket, if it is none yet.
///
/// `ENOBUFS` if it has no room for the state (`net.core.optmem_max`): then it is barred for good, lest an application that
/// goes on speak plaintext.
#[inline(always)]
fn make_fresh(sk: *mut bpf_sock, service: u64) -> Result<&'static mut Socket, i32> {
    if let Some(socket) = socket_of(sk) {
        return Ok(socket);
    }
    make_socket(sk, service).ok_or_else(|| {
        bar(sk);
        deny(errno::ENOBUFS)
    })
}

/// Checks what is the same for all options, and gives the context to change.
#[inline(always)]
fn begin(
    ctx: &SockoptContext,
    opt: Sockopt,
    socket: &mut Socket,
    row: OptionRow,
) -> Result<&'static mut Context, Refusal> {
    if socket.id == 0 {
        register(socket, caller(ctx.as_ptr(), socket.service))?;
    }
    if !OptionRow::offers(row.set) {
        return Err(Refusal::new(errno::ENOPROTOOPT, Reason::NotOffered));
    }
    if !phase_of(opt.sk(), socket).may_configure() {
        return Err(Refusal::new(errno::EOPNOTSUPP, Reason::WrongPhase));
    }
    let context = CONTEXTS.get_ptr_mut(socket.context).ok_or(CONTEXT_LOST)?;
    // SAFETY: a live value of the map, which stays while this socket uses it. Settings are written by
    // its one owner, under that socket's lock, before it is frozen; `refs` only atomically.
    let context = unsafe { &mut *context };
    if context.frozen != 0 && row.place != PlaceId::HOST_NAME {
        return Err(Refusal::new(errno::EOPNOTSUPP, Reason::ContextFrozen));
    }
    Ok(context)
}

/// Sets an option, or refuses it and has changed nothing.
#[inline(always)]
fn set(ctx: &SockoptContext, opt: Sockopt, socket: &mut Socket) -> Result<(), Refusal> {
    let row = option_row(opt.number());
    let context = begin(ctx, opt, socket, row)?;
    // SAFETY: plain memory; volatile, lest LLVM find out that it is zero.
    let zero = unsafe { (&raw const socket.scratch).read_volatile() };
    match row.place {
        PlaceId::HOST_NAME => set_host_name(opt, socket, context),
        PlaceId::ALPN => set_alpn(opt, context),
        PlaceId::BLOB => set_blob(ctx, opt, socket, context),
        PlaceId::CONTEXT => adopt(ctx, opt, socket),
        PlaceId::SETTING => set_scalar(opt, row, context),
        PlaceId::CIPHER_OFF => ciphers::disable(opt, context, zero),
        PlaceId::CIPHER_ON => ciphers::enable(opt, context, policy::of_caller().ok_or(AGENT_AWAY)?, zero),
        PlaceId::CIPHERS => ciphers::set(opt, socket.id, context, policy::of_caller().ok_or(AGENT_AWAY)?),
        _ => Err(Refusal::new(errno::ENOPROTOOPT, Reason::NotOffered)),
    }
}

/// `TLS_HOSTNAME`: stored with the socket, and with the context while that is the socket's own.
#[inline(always)]
fn set_host_name(opt: Sockopt, socket: &mut Socket, context: &mut Context) -> Result<(), Refusal> {
    let len = hostname::check(opt).ok_or(BAD_VALUE)?;
    put_text(opt, &mut socket.hostname, len);
    if context.id == socket.id && context.frozen == 0 {
        copy_words::<HostName, 33>(&raw mut context.hostname, &raw const socket.hostname);
    }
    Ok(())
}

/// `TLS_ALPN`.
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
    // The NUL counts as bad there; it was checked.
    let _checked = text::copy_text_in(opt, &mut text.bytes, len + 1);
    text.len = len;
}

/// A setting that is a number: checked by its row, then by the policy.
#[inline(always)]
fn set_scalar(opt: Sockopt, row: OptionRow, context: &mut Context) -> Result<(), Refusal> {
    if opt.len() != i32::from(row.size) {
        return Err(BAD_VALUE);
    }
    let value =
        if row.size == 8 { opt.word(0).ok_or(BAD_VALUE)? as i64 } else { i64::from(opt.int().ok_or(BAD_VALUE)?) };
    if row.values == ValueRange::UP_TO && (value < 0 || value > i64::from(row.most)) {
        return Err(BAD_VALUE);
    }
    if row.values == ValueRange::NOT_NEGATIVE && value < 0 {
        return Err(BAD_VALUE);
    }
    let slot = usize::from(row.slot) & (context.scalars.len() - 1);
    if row.values == ValueRange::VERSION {
        check_version(value, slot, context)?;
    }
    let policy = policy::of_caller().ok_or(AGENT_AWAY)?;
    if value < policy.least[slot] || value > policy.most[slot] {
        return Err(WEAKER);
    }
    context.scalars[slot] = value;
    context.scalars_set |= 1 << slot;
    Ok(())
}

/// A version that TLS has had is compared with the policy first; any other number is none. The lowest
/// is not above the highest.
#[inline(always)]
fn check_version(value: i64, slot: usize, context: &Context) -> Result<(), Refusal> {
    const SSL_3: i64 = 0x0300;
    if (SSL_3..TLS_1_2).contains(&value) {
        return Err(WEAKER);
    }
    if value != TLS_1_2 && value != TLS_1_3 {
        return Err(BAD_VALUE);
    }
    let policy = policy::of_caller().ok_or(AGENT_AWAY)?;
    if value < policy.least[slot] || value > policy.most[slot] {
        return Err(WEAKER);
    }
    let low = slot == Setting::VersionMin as usize;
    let above = low && value > context.scalars[Setting::VersionMax as usize];
    let below = !low && value < context.scalars[Setting::VersionMin as usize];
    if above || below { Err(BAD_VALUE) } else { Ok(()) }
}

/// Hands a path or a PEM text to the agent.
#[inline(always)]
fn set_blob(ctx: &SockoptContext, opt: Sockopt, socket: &Socket, context: &mut Context) -> Result<(), Refusal> {
    let len = opt.len();
    if len < 2 || len > OPTION_BYTES as i32 {
        return Err(BAD_VALUE);
    }
    if context.blob_sets >= BLOB_SETS_MAX {
        return Err(NO_ROOM);
    }
    let trust = opt.number() == TLS_TRUSTED_PEER_CERTIFICATES;
    if trust && policy::of_caller().ok_or(AGENT_AWAY)?.own_trust == 0 {
        return Err(WEAKER);
    }
    let key = BlobKey { context: context.id, option: opt.number() as u32, sequence: context.blob_sets + 1 };
    put_blob(opt, &key, (len - 1) as usize)?;
    let Some(mut event) = EVENTS.reserve_untyped::<BlobSet>(0) else {
        count(Counter::EventsLost, 1);
        let _absent = BLOBS.remove(key);
        return Err(NO_ROOM);
    };
    event.write(BlobSet {
        kind: EventKind::BLOB,
        reserved: 0,
        id: socket.id,
        key,
        caller: caller(ctx.as_ptr(), socket.service),
    });
    event.submit(0);
    context.blob_sets += 1;
    if trust {
        context.trust_set = context.blob_sets;
    } else {
        context.credential_sets += 1;
    }
    Ok(())
}

/// Copies a text of `len` bytes into a map entry of its own, where no other process's hook can
/// touch it. `EINVAL` if it is not one text with one NUL.
#[inline(always)]
fn put_blob(opt: Sockopt, key: &BlobKey, len: usize) -> Result<(), Refusal> {
    static EMPTY: Blob = Blob { len: 0, reserved: 0, bytes: [0; OPTION_BYTES] };
    if BLOBS.insert(key, &EMPTY, 0).is_err() {
        count(Counter::NoRoom, 1);
        return Err(NO_ROOM);
    }
    let blob = BLOBS.get_ptr_mut(key).ok_or(NO_ROOM)?;
    // SAFETY: a live value of the map under a key of this socket, whose lock is held; the agent does
    // not look before the event.
    let blob = unsafe { &mut *blob };
    blob.len = len as u32;
    if text::copy_in(opt, (&raw mut blob.bytes).cast(), len) {
        return Ok(());
    }
    let _absent = BLOBS.remove(key);
    Err(BAD_VALUE)
}

/// `TLS_CONTEXT`: takes another context instead of the socket's own. `EINVAL` unless it is of the same user, service
/// and network namespace.
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
    let caller = caller(ctx.as_ptr(), socket.service);
    if target.uid != caller.uid || target.service != caller.service || target.netns != caller.netns {
        return Err(unknown);
    }
    if id == socket.context {
        target.frozen = 1;
        return Ok(());
    }
    if !Refs::new(&raw mut target.refs).acquire() {
        return Err(unknown);
    }
    // The last socket may just have closed, and the entry be another context's by now.
    if target.id != id {
        release_context(target.id);
        return Err(unknown);
    }
    target.frozen = 1;
    release_context(socket.context);
    socket.context = id;
    copy_words::<HostName, 33>(&raw mut socket.hostname, &raw const target.hostname);
    Ok(())
}

/// `EBADFD`: the socket's context is in the map no more.
const CONTEXT_LOST: Refusal = Refusal::new(errno::EBADFD, Reason::ContextUnknown);
