//! Commands of bpf(2) that aya keeps to itself: making, pinning and updating links of a cgroup, and programs of type
//! `fmod_ret`.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands, and its argument is a union")]

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_info, bpf_prog_type};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Makes an argument whose every field is zero.
fn zeroed() -> bpf_attr {
    // SAFETY: all fields are integers, of which zero is one.
    unsafe { std::mem::zeroed() }
}

/// Attaches a program to a cgroup, beside those that are there (`BPF_LINK_CREATE`, 5.7).
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    kind: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_fd = raw(cgroup);
    attr.link_create.attach_type = kind as u32;
    descriptor(bpf_cmd::BPF_LINK_CREATE, &attr)
}

/// Puts another program in the place of a link's, in one step (`BPF_LINK_UPDATE`, 5.7).
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &attr).map(drop)
}

/// Detaches a link's program, at once, though others may have the link open (`BPF_LINK_DETACH`, 5.9).
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &attr).map(drop)
}

/// Keeps an object alive under a path of a bpffs (`BPF_OBJ_PIN`).
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &attr).map(drop)
}

/// Opens a pinned object (`BPF_OBJ_GET`).
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    descriptor(bpf_cmd::BPF_OBJ_GET, &attr)
}

/// Reads a map's value (`BPF_MAP_LOOKUP_ELEM`).
pub(crate) fn map_get<K: IntoBytes + Immutable, V: FromBytes>(map: BorrowedFd<'_>, key: &K) -> io::Result<V> {
    let mut value = V::new_zeroed();
    let mut attr = element(map, key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw mut value) as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &attr)?;
    Ok(value)
}

/// The argument that names an element of a map. It points to `key`, which must outlive the call.
fn element<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: &K) -> bpf_attr {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.as_bytes().as_ptr() as u64;
    attr
}

/// Loads a program of type `fmod_ret` for the kernel's function with this id in its type information (`BPF_PROG_LOAD`,
/// 5.7). The error comes with the verifier's log.
pub(crate) fn load_fmod_ret(
    name: &str,
    instructions: &[bpf_insn],
    license: &CStr,
    function: u32,
) -> Result<OwnedFd, (io::Error, String)> {
    let load = |log: &mut [u8]| {
        let mut attr = zeroed();
        // SAFETY: this command reads these fields of the union, whose bytes are zero.
        let program = unsafe { &mut attr.__bindgen_anon_3 };
        program.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
        program.insn_cnt = u32::try_from(instructions.len()).unwrap_or(u32::MAX);
        program.insns = instructions.as_ptr() as u64;
        program.license = license.as_ptr() as u64;
        if !log.is_empty() {
            program.log_level = 1;
            program.log_size = u32::try_from(log.len()).unwrap_or(u32::MAX);
            program.log_buf = log.as_mut_ptr() as u64;
        }
        // The last byte stays the NUL.
        for (room, byte) in program.prog_name[..15].iter_mut().zip(name.bytes()) {
            *room = byte.cast_signed();
        }
        program.expected_attach_type = bpf_attach_type::BPF_MODIFY_RETURN as u32;
        program.attach_btf_id = function;
        descriptor(bpf_cmd::BPF_PROG_LOAD, &attr)
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
    let mut attr = zeroed();
    attr.info.bpf_fd = raw(program);
    attr.info.info_len = u32::try_from(size_of_val(&info)).expect("it is small");
    attr.info.info = (&raw mut info) as u64;
    match bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &attr) {
        Ok(_done) => info.verified_insns.into(),
        Err(_old) => 0,
    }
}

/// Attaches a tracing program to the function that it was loaded for (`BPF_RAW_TRACEPOINT_OPEN`).
pub(crate) fn raw_tracepoint_open(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.prog_fd = raw(program);
    descriptor(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &attr)
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("descriptors are not negative")
}

/// Calls [`bpf`] for a command that makes a descriptor.
fn descriptor(command: bpf_cmd, attr: &bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls bpf(2). What `attr` points to must outlive the call.
fn bpf(command: bpf_cmd, attr: &bpf_attr) -> io::Result<i32> {
    // SAFETY: the kernel reads `size` bytes of `attr`, and what it points to is alive, as every caller above holds it.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_ref(attr), size_of_val(attr)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(0)) }
}
