//! Socket options that neither the standard library nor socket2 has.

#![expect(unsafe_code, reason = "getsockopt(2), setsockopt(2) and ioctl(2) with these options have no safe wrapper")]

use std::{io, os::fd::AsRawFd};

/// Cookie of a socket's network namespace (`SO_NETNS_COOKIE`, 5.14; include/uapi/asm-generic/socket.h).
pub(crate) fn netns_cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = [0; 8];
    let len = read(socket, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, &mut cookie)?;
    if len == 8 { Ok(u64::from_ne_bytes(cookie)) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Makes a listener keep the headers of each SYN for [`saved_syn`] (`TCP_SAVE_SYN`).
pub(crate) fn save_syns(listener: &impl AsRawFd) -> io::Result<()> {
    set_int(listener, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, 1)
}

/// IP and TCP header of the SYN that an accepted socket began with (`TCP_SAVED_SYN`). The kernel gives them once.
pub(crate) fn saved_syn(socket: &impl AsRawFd) -> io::Result<Vec<u8>> {
    let mut headers = vec![0; 256];
    let len = read(socket, libc::IPPROTO_TCP, libc::TCP_SAVED_SYN, &mut headers)?;
    headers.truncate(len);
    Ok(headers)
}

/// Sequence number of the SYN that an accepted socket began with, worked out from what it has received since: where the
/// kernel keeps no SYN, as it answers each with a cookie (`tcp_syncookies = 2`). Nothing may have been read from the
/// socket. Needs CAP_NET_ADMIN (`TCP_REPAIR`; net/ipv4/tcp.c, v6.12).
pub(crate) fn received_isn(socket: &impl AsRawFd) -> io::Result<u32> {
    const TCP_REPAIR: i32 = 19;
    const TCP_REPAIR_QUEUE: i32 = 20;
    const TCP_QUEUE_SEQ: i32 = 21;
    const TCP_RECV_QUEUE: i32 = 1;
    /// Ends the repair without a probe of the window.
    const TCP_REPAIR_OFF_NO_WP: i32 = -1;
    const TCP_CLOSE_WAIT: u8 = 8;
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
    let look = || {
        set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE)?;
        let next = || {
            let mut next = [0; 4];
            read(socket, libc::IPPROTO_TCP, TCP_QUEUE_SEQ, &mut next).map(|_len| u32::from_ne_bytes(next))
        };
        loop {
            let before = next()?;
            let mut state = [0];
            read(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut state)?;
            let mut waiting: libc::c_int = 0;
            // SAFETY: the kernel writes 4 bytes to `waiting`.
            let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut waiting) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
            // Nothing has come in between. It ends: the receive window fills.
            if next()? == before {
                // The SYN counts for one, and so does a FIN.
                let fin = u32::from(state[0] == TCP_CLOSE_WAIT);
                return Ok(before.wrapping_sub(waiting.cast_unsigned()).wrapping_sub(1 + fin));
            }
        }
    };
    let isn = look();
    set_int(socket, libc::IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)?;
    isn
}

/// Number of bytes that were written but not yet acknowledged (`SIOCOUTQ`, tcp(7)).
pub(crate) fn unacknowledged(socket: &impl AsRawFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes 4 bytes to `bytes`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

fn read(socket: &impl AsRawFd, level: i32, option: i32, value: &mut [u8]) -> io::Result<usize> {
    let mut len = libc::socklen_t::try_from(value.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the kernel writes at most `len` bytes to `value`.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut len) };
    if result == 0 { Ok(usize::try_from(len).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option of 4 bytes (getsockopt(2)).
pub(crate) fn int(socket: &impl AsRawFd, level: i32, option: i32) -> io::Result<i32> {
    let mut value = [0; 4];
    let len = read(socket, level, option, &mut value)?;
    if len == 4 { Ok(i32::from_ne_bytes(value)) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Sets an option of 4 bytes (setsockopt(2)).
pub(crate) fn set_int(socket: &impl AsRawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads 4 bytes of `value`.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Binds a socket to an interface (`SO_BINDTOIFINDEX`, 5.0; include/uapi/asm-generic/socket.h).
pub(crate) fn bind_to_interface(socket: &impl AsRawFd, interface: u32) -> io::Result<()> {
    const SO_BINDTOIFINDEX: i32 = 62;
    let index = i32::try_from(interface).map_err(|_range| io::ErrorKind::InvalidInput)?;
    set_int(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, index)
}

/// Sets a text option at the level `IPPROTO_TLS`, as any application would. The text must have no NUL.
pub(crate) fn tls_set(socket: &impl AsRawFd, option: i32, text: &str) -> io::Result<()> {
    let value = std::ffi::CString::new(text)?;
    let bytes = value.as_bytes_with_nul();
    let len = libc::socklen_t::try_from(bytes.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the kernel reads `len` bytes of `value`.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), ssa_common::uapi::IPPROTO_TLS, option, value.as_ptr().cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option at the level `IPPROTO_TLS`, as any application would: of 4 bytes if it is a number, else a text with
/// its NUL.
pub(crate) fn tls_get(socket: &impl AsRawFd, option: i32) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 256];
    if matches!(option, ssa_common::uapi::TLS_VERSION_CONN | ssa_common::uapi::TLS_STATE) {
        value.truncate(4);
    }
    let len = read(socket, ssa_common::uapi::IPPROTO_TLS, option, &mut value)?;
    value.truncate(len);
    Ok(value)
}
