//! `getsockopt(2)`: answers out. Works without the agent, which has put the answers into the maps.

use aya_ebpf::{macros::cgroup_sockopt, programs::SockoptContext};
use ssa_common::{
    connection::{Connection, Span, TEXT_BYTES, Text, state},
    limits::{ERROR_BYTES, HOSTNAME_BYTES},
    reason::{self, TEXT_TABLE},
    rule::{Rule, place},
    socket::Socket,
    uapi::{IPPROTO_TLS, When},
};

use crate::{
    ctx::{Sockopt, deny, errno, is_tcp, phase_of},
    maps::{CONNECTIONS, CONTEXTS, socket_of},
    setsockopt::rule_of,
    user_pointer,
};

/// Answers options of TLS; leaves all the others to the kernel.
#[cgroup_sockopt(getsockopt)]
fn ssa_getsockopt(ctx: SockoptContext) -> i32 {
    let opt = Sockopt::new(&ctx);
    if opt.level() != IPPROTO_TLS {
        return opt.leave();
    }
    match get(opt) {
        Ok(len) => opt.done_get(len),
        Err(errno) => deny(errno),
    }
}

/// Puts the answer and returns its length.
#[inline(always)]
fn get(opt: Sockopt) -> Result<i32, i32> {
    let sk = opt.sk();
    if !is_tcp(sk) {
        return Err(errno::ENOPROTOOPT);
    }
    let socket = socket_of(sk).ok_or(errno::ENOPROTOOPT)?;
    let rule = rule_of(opt.number());
    if !Rule::offers(rule.get) {
        return Err(errno::ENOPROTOOPT);
    }
    let phase = phase_of(sk, socket);
    if (rule.get == When::Connected as u8 && !phase.has_connection())
        || (rule.get == When::Fresh as u8 && !phase.may_configure())
    {
        return Err(errno::EOPNOTSUPP);
    }
    if rule.size != 0 && opt.len() != i32::from(rule.size) {
        return Err(errno::EINVAL);
    }
    if opt.len() > 0 && user_pointer::is_null(socket, opt.number()) {
        return Err(errno::EFAULT);
    }
    match rule.place {
        place::STATE => scalar(opt, rule, phase as i64),
        place::ERROR => error(opt, socket),
        place::HOST_NAME => text(opt, &socket.hostname.bytes, socket.hostname.len + 1),
        _ if socket.id == 0 => Err(errno::ENOTCONN),
        place::ID => scalar(opt, rule, socket.id as i64),
        place::CONTEXT => {
            let context = CONTEXTS.get_ptr_mut(socket.context).ok_or(errno::EBADFD)?;
            scalar(opt, rule, socket.context as i64).inspect(|_len| {
                // SAFETY: a live value of the map, which stays while this socket uses it.
                unsafe { (*context).frozen = 1 };
            })
        }
        place::SETTING => {
            // SAFETY: as above; the reference is used within this hook.
            let context = unsafe { CONTEXTS.get(socket.context) }.ok_or(errno::EBADFD)?;
            scalar(opt, rule, context.scalars[usize::from(rule.slot) & (context.scalars.len() - 1)])
        }
        place::ANSWER => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            scalar(opt, rule, connection.scalars[usize::from(rule.slot) & (connection.scalars.len() - 1)])
        }
        place::ALPN if phase.has_connection() => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            answer_text(opt, connection, connection.texts[Text::Alpn as usize])
        }
        place::ALPN => {
            // SAFETY: as above.
            let context = unsafe { CONTEXTS.get(socket.context) }.ok_or(errno::EBADFD)?;
            text(opt, &context.alpn.bytes, context.alpn.len + 1)
        }
        place::ANSWER_SHA256 => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            for (index, byte) in connection.sha256.iter().enumerate() {
                if !opt.put(index, *byte) {
                    return Err(errno::EINVAL);
                }
            }
            Ok(i32::from(rule.size))
        }
        place::ANSWER_TEXT => {
            let connection = connection_of(socket).ok_or(errno::EBADFD)?;
            let span = connection.texts[usize::from(rule.slot) & (connection.texts.len() - 1)];
            answer_text(opt, connection, span)
        }
        _ => Err(errno::ENOPROTOOPT),
    }
}

/// The answers of the attempt that is connected.
#[inline(always)]
fn connection_of(socket: &Socket) -> Option<&'static Connection> {
    answers(socket).filter(|connection| connection.state == state::SECURED)
}

#[inline(always)]
fn answers(socket: &Socket) -> Option<&'static Connection> {
    // SAFETY: entries are replaced whole; the reference is used within this hook.
    let connection = unsafe { CONNECTIONS.get(socket.id) }?;
    (connection.attempt == socket.attempt).then_some(connection)
}

#[inline(always)]
fn scalar(opt: Sockopt, rule: Rule, value: i64) -> Result<i32, i32> {
    let put = if rule.size == 8 { opt.put(0, value) } else { opt.put(0, value as i32) };
    if put { Ok(i32::from(rule.size)) } else { Err(errno::EINVAL) }
}

/// `TLS_ERROR`: what a hook refused last, else what the agent says of the attempt, else nothing.
#[inline(always)]
fn error(opt: Sockopt, socket: &Socket) -> Result<i32, i32> {
    let reason = socket.reason as usize & (TEXT_TABLE.len() - 1);
    if reason == 0
        && let Some(connection) = answers(socket)
        && connection.texts[Text::Error as usize].len != 0
    {
        return answer_text(opt, connection, connection.texts[Text::Error as usize]);
    }
    let row = &TEXT_TABLE[reason];
    let mut len = 1;
    for index in 0..reason::TEXT_BYTES - 1 {
        // SAFETY: the index is inside the row; volatile, lest LLVM turn the loop into a call.
        let byte = unsafe { row.as_ptr().add(index).read_volatile() };
        if byte == 0 {
            break;
        }
        len += 1;
    }
    text(opt, row, len)
}

/// Copies `len` bytes, the NUL included, of a text that stands alone.
#[inline(always)]
fn text<const ROOM: usize>(opt: Sockopt, bytes: &[u8; ROOM], len: u32) -> Result<i32, i32> {
    const {
        assert!(ROOM <= HOSTNAME_BYTES && ROOM <= ERROR_BYTES);
    }
    if opt.len() < len as i32 {
        return Err(errno::EINVAL);
    }
    for index in 0..ROOM {
        if index as u32 >= len {
            break;
        }
        // SAFETY: the index is inside the array.
        let byte = unsafe { bytes.as_ptr().add(index).read_volatile() };
        if !opt.put(index, byte) {
            return Err(errno::EINVAL);
        }
    }
    Ok(len as i32)
}

/// Copies a text of the connection's block.
#[inline(always)]
fn answer_text(opt: Sockopt, connection: &Connection, span: Span) -> Result<i32, i32> {
    let len = u32::from(span.len);
    if len == 0 {
        return if opt.put(0, 0_u8) { Ok(1) } else { Err(errno::EINVAL) };
    }
    if opt.len() < len as i32 {
        return Err(errno::EINVAL);
    }
    for index in 0..TEXT_BYTES {
        if index as u32 >= len {
            break;
        }
        let at = (usize::from(span.start) + index) & (TEXT_BYTES - 1);
        // SAFETY: masked to the block's length.
        let byte = unsafe { connection.bytes.as_ptr().add(at).read_volatile() };
        if !opt.put(index, byte) {
            return Err(errno::EINVAL);
        }
    }
    Ok(len as i32)
}
