//! Opens a path as the application that named it would: with its user, groups, capabilities, root, working directory
//! and mounts. The kernel then decides, just as it would for the application itself.
//!
//! Who called was noted by the hook, at the call. /proc only confirms it: a process that has since become somebody else
//! (a setuid executable) opens nothing.

#![expect(unsafe_code, reason = "credentials of one thread: libc's wrappers change all threads")]

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    unistd::{chroot, fchdir},
};
use ssa_common::socket::Caller;

/// Largest file that is read, in bytes.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most bytes that the files of a directory may have together.
const DIRECTORY_BYTES_MAX: u64 = 4 << 20;
/// Most files of a directory that are read.
const DIRECTORY_FILES_MAX: usize = 2000;

/// Reason why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or directory can't be opened or read.
    #[error("{}: {source}", path.display())]
    Open {
        /// File or directory.
        path: PathBuf,
        /// Error of openat2(2), or of reading.
        source: io::Error,
    },
    /// A path leads to neither a regular file nor a directory.
    #[error("{}: neither a file nor a directory", path.display())]
    Kind {
        /// File that is neither regular nor a directory.
        path: PathBuf,
    },
    /// A file, or the files of a directory together, are too large.
    #[error("{}: larger than {FILE_BYTES_MAX} bytes", path.display())]
    Size {
        /// File that is too large.
        path: PathBuf,
    },
    /// The process is not the one that has named the path.
    #[error("the application that named the path has ended, or become another user")]
    Changed,
    /// The thread that reads can't be made, or can't become the caller.
    #[error("reading as the application failed: {0}")]
    Thread(#[source] io::Error),
}

/// Content that a path leads to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Read {
    /// Contents of the file, or of the files of a directory.
    pub(crate) files: Vec<Vec<u8>>,
    /// Content of the file beside it whose name has `.ocsp` at its end: a response of an OCSP responder.
    pub(crate) ocsp: Option<Vec<u8>>,
    /// Time at which the caller's process began, in clock ticks after boot.
    pub(crate) began: u64,
}

/// Reads a file, or every file of a directory whose name is a certificate's hash (`c_rehash`), as `caller`. Blocks for
/// as long as the file system does: call it where that is right.
///
/// With `started`, the caller's process must be the one that began then, in clock ticks after boot; else the error is
/// [`Error::Changed`].
pub(crate) fn read(caller: Caller, started: Option<u64>, path: &Path) -> Result<Read, Error> {
    let path = path.to_owned();
    // A thread of its own: it can never take its rights back.
    thread::Builder::new()
        .name("as-caller".to_owned())
        .spawn(move || {
            let began = become_caller(&caller)?;
            if started.is_some_and(|started| started != began) {
                return Err(Error::Changed);
            }
            let files = read_here(&path)?;
            let mut beside = path.into_os_string();
            beside.push(".ocsp");
            let beside = PathBuf::from(beside);
            let ocsp = open(&beside).and_then(|file| contents(file, &beside)).ok();
            Ok(Read { files, ocsp, began })
        })
        .map_err(Error::Thread)?
        .join()
        .map_err(|_panic| Error::Thread(io::Error::other("the thread died")))?
}

fn read_here(path: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let file = open(path)?;
    let kind = file.metadata().map_err(|source| open_error(path, source))?.file_type();
    if kind.is_file() {
        return Ok(vec![contents(file, path)?]);
    }
    if !kind.is_dir() {
        return Err(Error::Kind { path: path.to_owned() });
    }
    let mut files = Vec::new();
    let mut bytes = 0;
    for entry in fs::read_dir(path).map_err(|source| open_error(path, source))?.take(DIRECTORY_FILES_MAX) {
        let entry = entry.map_err(|source| open_error(path, source))?;
        if is_hash(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            let file = contents(open(&path)?, &path)?;
            bytes += file.len() as u64;
            if bytes > DIRECTORY_BYTES_MAX {
                return Err(Error::Size { path });
            }
            files.push(file);
        }
    }
    Ok(files)
}

/// Opens a file for reading. `O_NONBLOCK`: a FIFO must not stop us. No magic links: `/proc/self/fd/3` is ours, not the
/// application's.
fn open(path: &Path) -> Result<File, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let here = nix::fcntl::AT_FDCWD;
    openat2(here, path, how).map(File::from).map_err(|errno| open_error(path, errno.into()))
}

fn contents(file: File, path: &Path) -> Result<Vec<u8>, Error> {
    let metadata = file.metadata().map_err(|source| open_error(path, source))?;
    if !metadata.is_file() {
        return Err(Error::Kind { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|source| open_error(path, source))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::Size { path: path.to_owned() });
    }
    Ok(bytes)
}

fn open_error(path: &Path, source: io::Error) -> Error {
    Error::Open { path: path.to_owned(), source }
}

/// Error of /proc about the caller: what it does not show is gone, unless the agent can't look.
fn changed(source: io::Error) -> Error {
    if lacks(&source) { Error::Thread(source) } else { Error::Changed }
}

/// Whether it is the agent that lacks something just now: descriptors, memory, threads.
fn lacks(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN))
}

impl Error {
    /// Whether it may go well another time: the agent lacks descriptors, memory or threads.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Thread(source) => lacks(source),
            Self::Kind { .. } | Self::Size { .. } | Self::Changed => false,
        }
    }
}

/// Whether a name is one such as `4f06f81d.0`.
fn is_hash(name: &str) -> bool {
    name.split_once('.').is_some_and(|(hash, number)| {
        hash.len() == 8
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Status of a process as /proc shows it.
struct Status {
    /// Real ids, as the hook has noted them.
    uid: u32,
    gid: u32,
    /// Ids that files are opened with.
    fsuid: u32,
    fsgid: u32,
    groups: Vec<u32>,
    effective: u64,
}

/// Turns this thread into the caller, for good. Returns when its process began, in clock ticks after boot.
fn become_caller(caller: &Caller) -> Result<u64, Error> {
    let process = PathBuf::from(format!("/proc/{}", caller.tgid));
    let pidfd = pidfd_open(caller.tgid).map_err(changed)?;
    let root = File::open(process.join("root")).map_err(changed)?;
    let cwd = File::open(process.join("cwd")).map_err(changed)?;
    let mut status = status(&process).map_err(changed)?;
    let began = began(&process).map_err(changed)?;
    let own_users = fs::read_link("/proc/self/ns/user").map_err(Error::Thread)?;
    let users = fs::read_link(process.join("ns/user")).map_err(changed)?;
    // All of this was the caller's, if the process that had its number is still the same one.
    if exited(&pidfd) || status.uid != caller.uid || status.gid != caller.gid {
        return Err(Error::Changed);
    }
    // The hook knows the real ids only. Of those and the effective ones the lesser counts: root that
    // acts for a user is that user, and a user that runs a setuid executable is still that user.
    if status.uid == 0 {
        (status.uid, status.gid) = (status.fsuid, status.fsgid);
    }
    // Capabilities of another user namespace are none over our files.
    let effective = if users == own_users { status.effective } else { 0 };
    let failed = |errno: nix::errno::Errno| Error::Thread(errno.into());
    unshare(CloneFlags::CLONE_FS).map_err(failed)?;
    fchdir(&root).map_err(failed)?;
    chroot(".").map_err(failed)?;
    fchdir(&cwd).map_err(failed)?;
    drop_rights(&status, effective).map_err(Error::Thread)?;
    Ok(began)
}

/// Time at which a process began, in clock ticks after boot (proc_pid_stat(5), field 22).
fn began(process: &Path) -> io::Result<u64> {
    let stat = fs::read_to_string(process.join("stat"))?;
    // The name, in parentheses, may have any character; the third field follows.
    let began = stat.rsplit_once(')').and_then(|(_name, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    began.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Path of a caller's executable. Errors: [`Error::Changed`] if the process is not the caller any more.
pub(crate) fn executable(caller: &Caller) -> Result<PathBuf, Error> {
    let process = PathBuf::from(format!("/proc/{}", caller.tgid));
    let pidfd = pidfd_open(caller.tgid).map_err(changed)?;
    let executable = executable_of(&process).map_err(changed)?;
    let uid = status(&process).map_err(changed)?.uid;
    // It was the caller's, if the process that had its number is still the same one.
    if exited(&pidfd) || uid != caller.uid { Err(Error::Changed) } else { Ok(executable) }
}

/// Path of a process's executable, by the process's folder in /proc. One that was replaced since has the path that it
/// had.
pub(crate) fn executable_of(process: &Path) -> io::Result<PathBuf> {
    let link = std::fs::read_link(process.join("exe"))?;
    let text = link.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| link.clone(), PathBuf::from))
}

fn status(process: &Path) -> io::Result<Status> {
    let text = fs::read_to_string(process.join("status"))?;
    let words = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .ok_or(io::ErrorKind::InvalidData)
    };
    let number = |word: Option<&String>| word.and_then(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidData);
    // Real, effective, saved, file system. The first is what bpf_get_current_uid_gid gives.
    let (uids, gids) = (words("Uid:")?, words("Gid:")?);
    let effective = words("CapEff:")?;
    Ok(Status {
        uid: number(uids.first())?,
        gid: number(gids.first())?,
        fsuid: number(uids.get(3))?,
        fsgid: number(gids.get(3))?,
        groups: words("Groups:")?.iter().filter_map(|word| word.parse().ok()).collect(),
        effective: effective.first().and_then(|word| u64::from_str_radix(word, 16).ok()).unwrap_or(0),
    })
}

/// Takes on the caller's file rights. Only the file-system ids change: were the thread's user the
/// caller, the caller could kill the agent.
fn drop_rights(status: &Status, effective: u64) -> io::Result<()> {
    // An application that is not root has no capabilities here, even if it has some now: it may have got
    // them by an exec after the call.
    let keep = if status.uid == 0 { effective } else { 0 };
    let groups: Vec<libc::gid_t> = status.groups.clone();
    // SAFETY: raw calls that change this thread alone; the list outlives the call.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        // These two return the previous id, and never fail for a process that may change ids.
        libc::syscall(libc::SYS_setfsgid, status.gid);
        libc::syscall(libc::SYS_setfsuid, status.uid);
    }
    limit_capabilities(keep)?;
    // SAFETY: an invalid id changes nothing, and the present one is returned.
    let (gid, uid) = unsafe { (libc::syscall(libc::SYS_setfsgid, -1), libc::syscall(libc::SYS_setfsuid, -1)) };
    if (gid, uid) == (i64::from(status.gid), i64::from(status.uid)) {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Takes all capabilities from this thread but those in `keep` (capset(2), version 3).
fn limit_capabilities(keep: u64) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = [VERSION_3, 0];
    // Effective, permitted, inheritable: low words, then high words.
    let mut data = [0_u32; 6];
    // SAFETY: the kernel fills 24 bytes of `data`, and then reads them.
    unsafe {
        check(libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()))?;
        let halves = [keep as u32, (keep >> 32) as u32];
        for (half, mask) in halves.into_iter().enumerate() {
            data[half * 3] &= mask;
            data[half * 3 + 1] &= mask;
            data[half * 3 + 2] = 0;
        }
        check(libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_ptr()))
    }
}

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the kernel has just made the descriptor for us.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(fd).map_err(|_range| io::ErrorKind::InvalidData)?))
    }
}

/// Whether a process has ended: its pidfd is readable then.
fn exited(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
