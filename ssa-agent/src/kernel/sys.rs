//! The calls of bpf(2) that aya keeps to itself: making, pinning and updating links of a cgroup.
//! And the bridge from aya's descriptors to the runtime.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd};
use tokio::io::unix::AsyncFd;

/// Lets the runtime wait for a map's events. Must be called inside it.
pub(crate) fn async_fd<T: AsFd + AsRawFd>(map: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: aya's ring buffers own their map's descriptor, which never changes.
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

fn put_pointer(attr: &mut [u32; 32], path: &CString) {
    let bytes = (path.as_ptr() as u64).to_ne_bytes();
    let (low, high) = bytes.split_at(4);
    attr[0] = u32::from_ne_bytes(low.try_into().expect("4 bytes"));
    attr[1] = u32::from_ne_bytes(high.try_into().expect("4 bytes"));
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
