//! The calls of bpf(2) that aya keeps to itself: making, pinning and updating links of a cgroup, and programs of
//! type `fmod_ret`.
//! And the bridge from aya's descriptors to the runtime.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::{
    array,
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_insn, bpf_prog_info, bpf_prog_type};
use tokio::io::unix::AsyncFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Lets the runtime wait for a map's events. Must be called inside it.
pub(crate) fn async_fd<T: AsFd + AsRawFd>(map: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: aya's ring buffers and our watch own their descriptor, which never changes.
    Ok(unsafe { AsyncFd::register(map) }?)
}

/// Attaches a program to a cgroup, beside those that are there (`BPF_LINK_CREATE`, 5.7).
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    kind: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = [0_u32; 32];
    attr[0] = raw(program);
    attr[1] = raw(cgroup);
    attr[2] = kind as u32;
    let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts another program in the place of a link's, in one step (`BPF_LINK_UPDATE`, 5.7).
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [0_u32; 32];
    attr[0] = raw(link);
    attr[1] = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &attr).map(drop)
}

/// Keeps an object alive under a path of a bpffs (`BPF_OBJ_PIN`).
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = [0_u32; 32];
    put_pointer(&mut attr, &path);
    attr[2] = raw(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &attr).map(drop)
}

/// Opens what was pinned (`BPF_OBJ_GET`).
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = [0_u32; 32];
    put_pointer(&mut attr, &path);
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A map's value (`BPF_MAP_LOOKUP_ELEM`).
pub(crate) fn map_get<K: IntoBytes + Immutable, V: FromBytes>(map: BorrowedFd<'_>, key: &K) -> io::Result<V> {
    let mut value = V::new_zeroed();
    let mut attr = [0_u32; 32];
    attr[0] = raw(map);
    put_u64(&mut attr, 2, key.as_bytes().as_ptr() as u64);
    put_u64(&mut attr, 4, (&raw mut value) as u64);
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &attr)?;
    Ok(value)
}

/// Puts a value into a map (`BPF_MAP_UPDATE_ELEM`).
pub(crate) fn map_insert<K: IntoBytes + Immutable, V: IntoBytes + Immutable>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
) -> io::Result<()> {
    let mut attr = [0_u32; 32];
    attr[0] = raw(map);
    put_u64(&mut attr, 2, key.as_bytes().as_ptr() as u64);
    put_u64(&mut attr, 4, value.as_bytes().as_ptr() as u64);
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &attr).map(drop)
}

/// Removes a map's value (`BPF_MAP_DELETE_ELEM`).
pub(crate) fn map_remove<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = [0_u32; 32];
    attr[0] = raw(map);
    put_u64(&mut attr, 2, key.as_bytes().as_ptr() as u64);
    bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &attr).map(drop)
}

/// Loads a program of type `fmod_ret` for the kernel's function with this id in its type information
/// (`BPF_PROG_LOAD`, 5.7). The error comes with what the verifier had to say.
pub(crate) fn load_fmod_ret(
    name: &str,
    instructions: &[bpf_insn],
    license: &CStr,
    function: u32,
) -> Result<OwnedFd, (io::Error, String)> {
    let load = |log: &mut [u8]| {
        let mut attr = [0_u32; 32];
        attr[0] = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
        attr[1] = u32::try_from(instructions.len()).unwrap_or(u32::MAX);
        put_u64(&mut attr, 2, instructions.as_ptr() as u64);
        put_u64(&mut attr, 4, license.as_ptr() as u64);
        if !log.is_empty() {
            attr[6] = 1;
            attr[7] = u32::try_from(log.len()).unwrap_or(u32::MAX);
            put_u64(&mut attr, 8, log.as_mut_ptr() as u64);
        }
        // The name, without its NUL, at byte 48.
        for (index, byte) in name.bytes().take(15).enumerate() {
            attr[12 + index / 4] |= u32::from_ne_bytes(array::from_fn(|at| if at == index % 4 { byte } else { 0 }));
        }
        attr[17] = bpf_attach_type::BPF_MODIFY_RETURN as u32;
        attr[27] = function;
        let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &attr)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    load(&mut []).map_err(|error: io::Error| {
        let mut log = vec![0; 1 << 16];
        let _again = load(&mut log);
        (error, String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned())
    })
}

/// Instructions that the verifier followed for a program (`BPF_OBJ_GET_INFO_BY_FD`, 5.16); zero if it can't be known.
pub(crate) fn verified_instructions(program: BorrowedFd<'_>) -> u64 {
    // SAFETY: plain numbers, of which zero is one.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = [0_u32; 32];
    attr[0] = raw(program);
    attr[1] = u32::try_from(size_of_val(&info)).expect("it is small");
    put_u64(&mut attr, 2, (&raw mut info) as u64);
    match bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &attr) {
        Ok(_done) => info.verified_insns.into(),
        Err(_old) => 0,
    }
}

/// Attaches a tracing program to the function that it was loaded for (`BPF_RAW_TRACEPOINT_OPEN`).
pub(crate) fn raw_tracepoint_open(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = [0_u32; 32];
    attr[2] = raw(program);
    let fd = bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn put_pointer(attr: &mut [u32; 32], path: &CString) {
    put_u64(attr, 0, path.as_ptr() as u64);
}

/// Puts 8 bytes into the fields `at` and after it.
fn put_u64(attr: &mut [u32; 32], at: usize, value: u64) {
    let bytes = value.to_ne_bytes();
    let (low, high) = bytes.split_at(4);
    attr[at] = u32::from_ne_bytes(low.try_into().expect("4 bytes"));
    attr[at + 1] = u32::from_ne_bytes(high.try_into().expect("4 bytes"));
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("descriptors are not negative")
}

/// `attr` is `union bpf_attr`, of which these commands read the first fields; the rest is zero.
fn bpf(command: bpf_cmd, attr: &[u32; 32]) -> io::Result<i32> {
    // SAFETY: the kernel reads `size` bytes of `attr`, and strings that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr.as_ptr(), size_of_val(attr)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(0)) }
}
