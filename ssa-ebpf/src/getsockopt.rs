//! `getsockopt(2)`: answers out. Works without the agent, which has put the answers into the maps.

use aya_ebpf::{EbpfContext as _, macros::cgroup_sockopt, programs::SockoptContext};
use ssa_common::{
    certificate::{CHAIN_MAX, Chain},
    connection::{Connection, Scalar, Span, State, Text},
    limits::OPTION_BYTES,
    option_row::{OptionRow, PlaceId},
    phase::{Outcome, Phase},
    reason::{Reason, TEXT_LENGTHS, TEXT_TABLE},
    socket::Socket,
    uapi::{IPPROTO_TLS, When},
};

use crate::{
    caller::caller,
    cgroups, ciphers,
    ctx::{SOL_SOCKET, Sockopt, is_tcp, phase_of},
    lifecycle::register,
    maps::{CERTIFICATES, CHAINS, CONNECTIONS, CONTEXTS, socket_of},
    option_row::option_row,
    refusal::{ALLOW, deny, errno},
    text::{copy_out, copy_text},
    user_pointer,
};

/// Answers options of TLS; leaves all the others to the kernel.
#[cgroup_sockopt(getsockopt)]
fn ssa_getsockopt(ctx: SockoptContext) -> i32 {
    let opt = Sockopt::new(&ctx);
    if opt.level() != IPPROTO_TLS {
        answer_so_protocol(opt);
        return opt.leave();
    }
    if socket_of(opt.sk()).is_none() && cgroups::of_caller().service == 0 {
        // Nobody serves the caller, or another agent does: the kernel's own answer stands, and the length.
        return ALLOW;
    }
    match get(&ctx, opt) {
        Ok(len) => opt.done_get(len),
        Err(errno) => deny(errno),
    }
}

/// Answers `SO_PROTOCOL` with the protocol that the socket was made with. The kernel has put its own answer, 6.
#[inline(always)]
fn answer_so_protocol(opt: Sockopt) {
    const SO_PROTOCOL: i32 = 38;
    if opt.level() == SOL_SOCKET
        && opt.number() == SO_PROTOCOL
        && socket_of(opt.sk()).is_some_and(|socket| socket.by_protocol != 0)
    {
        let last = if cfg!(target_endian = "big") { 3 } else { 0 };
        // A buffer of less has less of the number.
        let _cut = opt.len() > last as i32 && opt.put(last, IPPROTO_TLS as u8);
    }
}

/// Puts the answer and returns its length, or an errno.
#[inline(always)]
fn get(ctx: &SockoptContext, opt: Sockopt) -> Result<i32, i32> {
    let sk = opt.sk();
    if !is_tcp(sk) {
        return Err(errno::ENOPROTOOPT);
    }
    let socket = socket_of(sk).ok_or(errno::ENOPROTOOPT)?;
    let row = option_row(opt.number());
    if !OptionRow::offers(row.get) {
        return Err(errno::ENOPROTOOPT);
    }
    let phase = phase_of(sk, socket);
    if (row.get == When::Connected && !phase.has_connection()) || (row.get == When::Fresh && !phase.may_configure()) {
        return Err(errno::EOPNOTSUPP);
    }
    if row.size != 0 && opt.len() != i32::from(row.size) {
        return Err(errno::EINVAL);
    }
    if opt.len() > 0 && user_pointer::is_null(socket, opt.number()) {
        return Err(errno::EFAULT);
    }
    match row.place {
        PlaceId::STATE => scalar(opt, row, phase as i64),
        PlaceId::ERROR => error(opt, socket, phase),
        PlaceId::HOST_NAME if socket.accepted != 0 => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            some_text(opt, connection, connection.texts[Text::Sni as usize])
        }
        PlaceId::HOST_NAME => text(opt, &socket.hostname.bytes, socket.hostname.len + 1),
        // It has no context yet. One on which a set was refused because the agent is away gets none here.
        _ if socket.id == 0
            && (socket.by_protocol == 0 || register(socket, caller(ctx.as_ptr(), socket.service)).is_err()) =>
        {
            Err(errno::ENOTCONN)
        }
        PlaceId::ID => scalar(opt, row, socket.id as i64),
        PlaceId::CONTEXT => {
            let context = CONTEXTS.get_ptr_mut(socket.context).ok_or(errno::EBADFD)?;
            scalar(opt, row, socket.context as i64).inspect(|_len| {
                // SAFETY: a live value of the map, which stays while this socket uses it.
                unsafe { (*context).frozen = 1 };
            })
        }
        PlaceId::SETTING => {
            // SAFETY: as above; the reference is used within this hook.
            let context = unsafe { CONTEXTS.get(socket.context) }.ok_or(errno::EBADFD)?;
            scalar(opt, row, context.scalars[usize::from(row.slot) & (context.scalars.len() - 1)])
        }
        PlaceId::ANSWER => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            scalar(opt, row, connection.scalars[usize::from(row.slot) & (connection.scalars.len() - 1)])
        }
        PlaceId::ALPN if phase.has_connection() => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            answer_text(opt, connection, connection.texts[Text::Alpn as usize])
        }
        PlaceId::ALPN => {
            // SAFETY: as above.
            let context = unsafe { CONTEXTS.get(socket.context) }.ok_or(errno::EBADFD)?;
            text(opt, &context.alpn.bytes, context.alpn.len + 1)
        }
        PlaceId::CIPHERS => {
            // SAFETY: as above.
            let context = unsafe { CONTEXTS.get(socket.context) }.ok_or(errno::EBADFD)?;
            ciphers::get(opt, socket.id, context)
        }
        PlaceId::CERTIFICATE => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            certificate(opt, connection, usize::from(row.slot))
        }
        PlaceId::CHAIN => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            chain(opt, chain_of(connection)?)
        }
        PlaceId::ANSWER_SHA256 => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            with_certificate(connection)?;
            for (index, byte) in connection.sha256.iter().enumerate() {
                if !opt.put(index, *byte) {
                    return Err(errno::EINVAL);
                }
            }
            Ok(i32::from(row.size))
        }
        PlaceId::ANSWER_TEXT => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            let span = connection.texts[usize::from(row.slot) & (connection.texts.len() - 1)];
            some_text(opt, connection, span)
        }
        _ => Err(errno::ENOPROTOOPT),
    }
}

/// Answers of an attempt that is connected; none before the verdict.
#[inline(always)]
fn connection_of(socket: &Socket) -> Option<&'static Connection> {
    answers(socket).filter(|connection| connection.state == State::SECURED)
}

/// Answers of the socket's attempt, however far it is.
#[inline(always)]
fn answers(socket: &Socket) -> Option<&'static Connection> {
    // SAFETY: entries are replaced whole; the reference is used within this hook.
    let connection = unsafe { CONNECTIONS.get(socket.id) }?;
    (connection.attempt == socket.attempt).then_some(connection)
}

/// Puts a number of the row's size. `EINVAL` without room.
#[inline(always)]
fn scalar(opt: Sockopt, row: OptionRow, value: i64) -> Result<i32, i32> {
    let put = if row.size == 8 { opt.put(0, value) } else { opt.put(0, value as i32) };
    if put { Ok(i32::from(row.size)) } else { Err(errno::EINVAL) }
}

/// Checks that the peer has shown a certificate. `ENOENT` if not.
#[inline(always)]
fn with_certificate(connection: &Connection) -> Result<(), i32> {
    if connection.scalars[Scalar::CertificateCount as usize] == 0 { Err(errno::ENOENT) } else { Ok(()) }
}

/// Verified chain of a connection. `ENOENT` without one, `EBADFD` if it is gone.
#[inline(always)]
fn chain_of(connection: &Connection) -> Result<&'static Chain, i32> {
    with_certificate(connection)?;
    // SAFETY: entries are written whole, and stay while a connection has them; the reference is used
    // within this hook.
    unsafe { CHAINS.get(connection.chain) }.ok_or(errno::EBADFD)
}

/// `TLS_PEER_CERTIFICATE(index)`.
#[inline(always)]
fn certificate(opt: Sockopt, connection: &Connection, index: usize) -> Result<i32, i32> {
    if index as i64 >= connection.scalars[Scalar::CertificateCount as usize] {
        return Err(errno::ENOENT);
    }
    let chain = chain_of(connection)?;
    // SAFETY: as `chain_of`.
    let found = unsafe { CERTIFICATES.get(chain.certificates[index & (CHAIN_MAX - 1)]) };
    let certificate = found.ok_or(errno::EBADFD)?;
    let len = certificate.len as usize;
    if len > OPTION_BYTES {
        return Err(errno::EMSGSIZE);
    }
    if copy_out(opt, (&raw const certificate.der).cast(), len) { Ok(len as i32) } else { Err(errno::EINVAL) }
}

/// `TLS_PEER_CERTIFICATE_CHAIN`: as many whole certificates as there is room for; at least one.
#[inline(always)]
fn chain(opt: Sockopt, chain: &Chain) -> Result<i32, i32> {
    if chain.pem_count == 0 {
        return Err(errno::EMSGSIZE);
    }
    let mut len = 0;
    for index in 0..CHAIN_MAX {
        let end = u32::from(chain.ends[index]);
        // The NUL needs room, too.
        if (index as u32) < chain.pem_count && (end as i32) < opt.len() {
            len = end;
        }
    }
    let nul = len as usize & (OPTION_BYTES - 1);
    if nul == 0 || !copy_out(opt, (&raw const chain.pem).cast(), nul) || !opt.put(nul, 0_u8) {
        return Err(errno::EINVAL);
    }
    Ok(nul as i32 + 1)
}

/// `TLS_ERROR`: what a hook refused last, else what the agent says of the attempt, else what the kernel
/// has done to it, else nothing.
#[inline(always)]
fn error(opt: Sockopt, socket: &Socket, phase: Phase) -> Result<i32, i32> {
    let mut reason = socket.reason as usize & (TEXT_TABLE.len() - 1);
    if reason == 0
        && let Some(connection) = answers(socket)
        && connection.texts[Text::Error as usize].len != 0
    {
        return answer_text(opt, connection, connection.texts[Text::Error as usize]);
    }
    if reason == 0 {
        reason = match (phase, socket.outcome) {
            (Phase::Failed, Outcome::STARTED) => Reason::Kernel as usize,
            (Phase::Failed, _) => Reason::NoAnswer as usize,
            (Phase::PeerClosed, Outcome::RESET) => Reason::Reset as usize,
            (_, _) => 0,
        };
    }
    text(opt, &TEXT_TABLE[reason], TEXT_LENGTHS[reason])
}

/// Copies `len` bytes, the NUL included, of a text that stands alone.
#[inline(always)]
fn text<const ROOM: usize>(opt: Sockopt, bytes: &[u8; ROOM], len: u32) -> Result<i32, i32> {
    if copy_text(opt, bytes, 0, len) { Ok(len as i32) } else { Err(errno::EINVAL) }
}

/// As [`answer_text`]; `ENOENT` if there is none.
#[inline(always)]
fn some_text(opt: Sockopt, connection: &Connection, span: Span) -> Result<i32, i32> {
    if span.len == 0 { Err(errno::ENOENT) } else { answer_text(opt, connection, span) }
}

/// Copies a text of the connection's block.
#[inline(always)]
fn answer_text(opt: Sockopt, connection: &Connection, span: Span) -> Result<i32, i32> {
    let len = u32::from(span.len);
    if len == 0 {
        return if opt.put(0, 0_u8) { Ok(1) } else { Err(errno::EINVAL) };
    }
    if copy_text(opt, &connection.bytes, span.start, len) { Ok(len as i32) } else { Err(errno::EINVAL) }
}
