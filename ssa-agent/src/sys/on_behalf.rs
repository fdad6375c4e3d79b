//! Sockets made on behalf of an application: in its network namespace, in its cgroup and as its user.
//!
//! Whoever limits what an application may reach goes by one of these: routes and firewalls of a namespace, programs of
//! others on a cgroup (systemd's `IPAddressDeny=`), nft's `socket cgroupv2` and `meta skuid`. A socket has them from
//! the moment in which it is made, for good (`cgroup_sk_alloc` in kernel/cgroup/cgroup.c, `sock_alloc` in net/socket.c,
//! Linux 6.18). So a child is put into the cgroup at its birth (`CLONE_INTO_CGROUP`, clone3(2)), becomes the user,
//! makes the socket, sends it to the agent, and ends. It lives for some microseconds, and shares the agent's memory:
//!
//! - it consists of system calls only, in one block of assembly: it may be killed at any moment, together with the
//!   service, and must hold no lock and touch no stack then;
//! - its descriptors are its own, so that what it has is gone with it. It is born with the agent's, of which it keeps
//!   the few lowest (`CLOSE_RANGE_UNSHARE`, close_range(2)), as copying all of them would take long. One of these is
//!   its end of a [`Slot`], into which it puts the socket (`SCM_RIGHTS`, unix(7));
//! - the calling thread waits for it (`CLONE_VFORK`), so the kernel never picks it when the service is out of memory
//!   (`in_vfork` in mm/oom_kill.c), which would be the agent's end too;
//! - in a frozen cgroup it waits for the thaw, and the calling thread with it.

#![expect(unsafe_code, reason = "clone3(2) with a child that shares our memory, open_by_handle_at(2)")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, OnceLock, PoisonError},
};

use nix::sys::{
    signal::{SigSet, SigmaskHow, pthread_sigmask},
    socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair},
    stat::fstat,
};
use socket2::{Domain, Socket, Type};

use super::cgroup;
use crate::sync::lock;

/// Owner of a socket that is made on behalf of an application.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct SocketOwner {
    /// Inodes of the cgroup, and of the one to take if that is gone.
    pub(crate) cgroups: [u64; 2],
    /// User id that the socket gets.
    pub(crate) uid: u32,
    /// Group id that the socket gets.
    pub(crate) gid: u32,
}

/// Makes a socket on behalf of its owner, not blocking and closed on exec. Blocks for microseconds, but in a frozen
/// cgroup until the thaw.
///
/// # Errors
///
/// `ENOENT`: the cgroups are gone. `EAGAIN`: the child was killed. `EBUSY`: the cgroup takes no processes, as cgroups
/// with controllers for others below them don't.
pub(crate) fn socket(owner: &SocketOwner, netns: BorrowedFd<'_>, domain: Domain, kind: Type) -> io::Result<Socket> {
    let mut cgroup = owner.cgroups.into_iter().find_map(|id| open_cgroup(id).ok()).ok_or(nix::errno::Errno::ENOENT)?;
    let slot = Slot::take()?;
    let kind = i32::from(kind) | libc::SOCK_NONBLOCK;
    let mut job = Job::new(&slot, owner, netns, i32::from(domain), kind);
    let made = loop {
        match run(&mut job, &slot, Some(&cgroup)) {
            // A threaded cgroup takes threads only; its processes run below the nearest one that is not.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => cgroup = File::open(parent(&cgroup)?)?,
            // KERNEL: whatever is born into a cgroup that `cgroup.kill` was ever written to is killed at once
            // (`cgroup_css_set_fork` takes the count of kills from the parent's cgroup, kernel/cgroup/cgroup.c, 6.18).
            // Moving there takes some milliseconds more.
            // It also works where there are as many processes as there may be (`pids.max`).
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                let procs = OpenOptions::new().write(true).open(path(&cgroup)?.join("cgroup.procs"))?;
                job.procs = procs.as_raw_fd().into();
                break run(&mut job, &slot, None)?;
            }
            done => break done?,
        }
    };
    let socket = Socket::from(made);
    // The ids of a socket's file are those that firewalls see. Setting them can't fail but for want of a capability.
    let stat = fstat(&socket)?;
    if (stat.st_uid, stat.st_gid) == (owner.uid, owner.gid) {
        Ok(socket)
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// A pair of connected sockets for one child at a time. The child's end has a low number.
struct Slot {
    agent_end: OwnedFd,
    child_end: OwnedFd,
}

/// Pool of free slots, and the condition that callers wait for one by.
struct SlotPool {
    free: Mutex<Vec<Slot>>,
    freed: Condvar,
    /// First descriptor that no child keeps.
    first_closed: RawFd,
}

/// Number of slots: most children at once. Each lives for microseconds, but in a frozen cgroup.
const SLOTS: usize = 32;
static POOL: OnceLock<Option<SlotPool>> = OnceLock::new();

/// Makes the slots, once. The earlier, the lower their descriptors, and the less there is to copy for a child.
pub(crate) fn prepare() -> io::Result<()> {
    slots().map(drop)
}

fn slots() -> io::Result<&'static SlotPool> {
    let made = POOL.get_or_init(|| {
        let free: Vec<Slot> = (0..SLOTS).map(|_number| Slot::new()).collect::<io::Result<_>>().ok()?;
        let last = free.iter().map(|slot| slot.child_end.as_raw_fd()).max().unwrap_or(0);
        Some(SlotPool { free: Mutex::new(free), freed: Condvar::new(), first_closed: last + 1 })
    });
    made.as_ref().ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

impl Slot {
    fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (agent_end, child_end) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags)?;
        Ok(Self { agent_end, child_end })
    }

    /// Takes a free slot. Blocks until one is free.
    fn take() -> io::Result<SlotGuard> {
        let slots = slots()?;
        let mut free = lock(&slots.free);
        loop {
            match free.pop() {
                Some(slot) => return Ok(SlotGuard { slot: Some(slot), slots }),
                None => free = slots.freed.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Receives the socket that the child has sent, which has ended since; none if it sent nothing.
    fn receive(&self) -> io::Result<Option<OwnedFd>> {
        let mut byte = [0; 1];
        let mut parts = [io::IoSliceMut::new(&mut byte)];
        let mut control = nix::cmsg_space!(RawFd);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(self.agent_end.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(nix::errno::Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
            Ok(message) => {
                let fds = message.cmsgs()?.find_map(|part| {
                    let ControlMessageOwned::ScmRights(fds) = part else { return None };
                    fds.first().copied()
                });
                // SAFETY: the kernel has just made the descriptor for us.
                Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
            }
        }
    }
}

/// A slot that is given back when it is dropped.
struct SlotGuard {
    slot: Option<Slot>,
    slots: &'static SlotPool,
}

impl std::ops::Deref for SlotGuard {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        self.slot.as_ref().expect("it is given back at the drop")
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        lock(&self.slots.free).extend(self.slot.take());
        self.slots.freed.notify_one();
    }
}

/// Job of a child: its parameters, and the result. Read and written by the assembly below: eight bytes each.
#[repr(C)]
struct Job {
    /// Descriptor of a `cgroup.procs` to move itself to; none if it is below zero.
    procs: i64,
    netns: i64,
    gid: i64,
    uid: i64,
    domain: i64,
    kind: i64,
    /// An errno below zero, if no socket was sent.
    result: i64,
    first_closed: i64,
    slot: i64,
    /// `struct msghdr`, which names the two after it.
    message: libc::msghdr,
    part: libc::iovec,
    /// `struct cmsghdr`, and the socket's descriptor at byte 16.
    control: [u64; 3],
    byte: u64,
}

impl Job {
    /// Result that is left by a child that had no time to say anything.
    const KILLED: i64 = -(libc::EAGAIN as i64);

    fn new(slot: &SlotGuard, owner: &SocketOwner, netns: BorrowedFd<'_>, domain: i32, kind: i32) -> Box<Self> {
        // SAFETY: plain numbers and pointers, of which zero is one.
        let mut job: Box<Self> = Box::new(unsafe { std::mem::zeroed() });
        job.procs = -1;
        job.netns = netns.as_raw_fd().into();
        (job.gid, job.uid) = (owner.gid.into(), owner.uid.into());
        (job.domain, job.kind) = (domain.into(), kind.into());
        job.first_closed = slot.slots.first_closed.into();
        job.slot = slot.child_end.as_raw_fd().into();
        job.part = libc::iovec { iov_base: (&raw mut job.byte).cast(), iov_len: 1 };
        job.message.msg_iov = &raw mut job.part;
        job.message.msg_iovlen = 1;
        job.message.msg_control = job.control.as_mut_ptr().cast();
        // CMSG_LEN(4), though what follows is padded to eight bytes.
        const CONTROL_BYTES: u64 = 20;
        job.message.msg_controllen = size_of_val(&job.control);
        job.control[0] = CONTROL_BYTES;
        job.control[1] = libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32;
        job
    }
}

/// `struct clone_args` (include/uapi/linux/sched.h), as of Linux 5.7.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Runs one child, which is born in a cgroup, or moves to one by itself. Blocks until it has ended.
fn run(job: &mut Job, slot: &Slot, cgroup: Option<&File>) -> io::Result<OwnedFd> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    const SHARED: libc::c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES;
    let arguments = CloneArgs {
        flags: SHARED as u64 | cgroup.map_or(0, |_cgroup| CLONE_INTO_CGROUP),
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    job.result = Job::KILLED;
    // A handler of ours must not run in the child: it would use this thread's stack.
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    // SAFETY: both outlive the child, for which the call waits.
    let pid = unsafe { spawn(&arguments, job) };
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    if pid < 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(-pid).unwrap_or(libc::EIO)));
    }
    // SAFETY: the child is ours, and no one else waits for it: it sends no signal when it ends (`__WALL`, wait(2)).
    unsafe { libc::waitpid(i32::try_from(pid).unwrap_or(0), std::ptr::null_mut(), libc::__WALL) };
    match slot.receive()? {
        Some(socket) => Ok(socket),
        None => Err(io::Error::from_raw_os_error(i32::try_from(-job.result).unwrap_or(libc::EIO))),
    }
}

/// Starts the child, and returns its process id, or an errno below zero, once it has ended.
///
/// # Safety
///
/// Signals must be blocked.
#[cfg(target_arch = "x86_64")]
unsafe fn spawn(arguments: &CloneArgs, job: &mut Job) -> i64 {
    let pid: i64;
    // SAFETY: the child never leaves the block, writes to no memory but the job's result, and uses no stack. All of its
    // registers but those that a system call changes are the parent's own again afterwards: a thread has its own.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 3f",
            // write(procs, "0", 1): itself
            "mov rdi, [r12]",
            "test rdi, rdi",
            "js 4f",
            "lea rsi, [rip + 5f]",
            "mov edx, 1",
            "mov eax, {write}",
            "syscall",
            "test rax, rax",
            "js 2f",
            // setns(netns, CLONE_NEWNET)
            "4:",
            "mov rdi, [r12 + 8]",
            "mov esi, {newnet}",
            "mov eax, {setns}",
            "syscall",
            "test rax, rax",
            "jnz 2f",
            // close_range(first_closed, ~0, CLOSE_RANGE_UNSHARE): from here on its descriptors are its own.
            "mov rdi, [r12 + 56]",
            "mov esi, -1",
            "mov edx, {unshare}",
            "mov eax, {close_range}",
            "syscall",
            "test rax, rax",
            "jnz 2f",
            // setfsgid(gid), setfsuid(uid): the other way round the capability would be gone.
            "mov rdi, [r12 + 16]",
            "mov eax, {setfsgid}",
            "syscall",
            "mov rdi, [r12 + 24]",
            "mov eax, {setfsuid}",
            "syscall",
            // socket(domain, kind, 0)
            "mov rdi, [r12 + 32]",
            "mov rsi, [r12 + 40]",
            "xor edx, edx",
            "mov eax, {socket}",
            "syscall",
            "test rax, rax",
            "js 2f",
            // sendmsg(slot, message, 0), with the socket
            "mov [r12 + {control} + 16], eax",
            "mov rdi, [r12 + 64]",
            "lea rsi, [r12 + {message}]",
            "xor edx, edx",
            "mov eax, {sendmsg}",
            "syscall",
            "2:",
            "mov [r12 + 48], rax",
            "xor edi, edi",
            "mov eax, {exit}",
            "syscall",
            "5:",
            ".ascii \"0\"",
            "3:",
            write = const libc::SYS_write,
            newnet = const libc::CLONE_NEWNET,
            setns = const libc::SYS_setns,
            setfsgid = const libc::SYS_setfsgid,
            setfsuid = const libc::SYS_setfsuid,
            socket = const libc::SYS_socket,
            unshare = const 2,
            close_range = const libc::SYS_close_range,
            sendmsg = const libc::SYS_sendmsg,
            message = const std::mem::offset_of!(Job, message),
            control = const std::mem::offset_of!(Job, control),
            exit = const libc::SYS_exit,
            in("r12") std::ptr::from_mut(job),
            in("rdi") std::ptr::from_ref(arguments),
            in("rsi") size_of::<CloneArgs>(),
            inout("rax") libc::SYS_clone3 => pid,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    pid
}

#[cfg(not(target_arch = "x86_64"))]
compile_error!("sockets are made on behalf of applications by assembly, which is written for x86-64 only");

/// Opens a cgroup by its inode, which is its file handle (`kernfs_encode_fh` in fs/kernfs/mount.c).
fn open_cgroup(inode: u64) -> io::Result<File> {
    /// `FILEID_KERNFS` (include/linux/exportfs.h).
    const KERNFS: i32 = 0xfe;
    /// `struct file_handle` (include/linux/fcntl.h) with its bytes.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        inode: [u8; 8],
    }
    static MOUNT: OnceLock<Option<File>> = OnceLock::new();
    let mount = MOUNT.get_or_init(|| File::open(cgroup::mount().ok()?).ok()).as_ref().ok_or(io::ErrorKind::NotFound)?;
    let mut handle = Handle { bytes: 8, kind: KERNFS, inode: inode.to_ne_bytes() };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the handle says how many bytes it has; the kernel makes the descriptor for us.
    unsafe {
        let fd = libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut handle, flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(i32::try_from(fd).map_err(|_range| io::ErrorKind::InvalidData)?))
    }
}

/// Path of the cgroup with this inode. Errors: `ESTALE` if there is none.
pub(crate) fn cgroup_path(inode: u64) -> io::Result<PathBuf> {
    path(&open_cgroup(inode)?)
}

fn path(cgroup: &File) -> io::Result<PathBuf> {
    std::fs::read_link(Path::new("/proc/self/fd").join(cgroup.as_raw_fd().to_string()))
}

fn parent(cgroup: &File) -> io::Result<PathBuf> {
    path(cgroup)?.parent().map(Path::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd as _, unix::fs::MetadataExt as _};

    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

    use super::*;

    #[test]
    fn sockets_are_of_the_user_that_was_asked_for() {
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let cgroup = std::fs::metadata(cgroup::mount().unwrap().join(own)).unwrap().ino();
        let netns = File::open("/proc/self/ns/net").unwrap();
        let began = std::time::Instant::now();
        const TIMES: u32 = 200;
        for number in 0..TIMES {
            let owner = SocketOwner { cgroups: [cgroup; 2], uid: 10_000 + number, gid: 20_000 + number };
            let made = socket(&owner, netns.as_fd(), Domain::IPV6, Type::DGRAM).unwrap();
            let stat = fstat(&made).unwrap();
            assert_eq!((stat.st_uid, stat.st_gid), (owner.uid, owner.gid));
            assert_eq!((made.domain().unwrap(), made.r#type().unwrap()), (Domain::IPV6, Type::DGRAM));
            assert!(OFlag::from_bits_retain(fcntl(&made, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK));
            assert!(FdFlag::from_bits_retain(fcntl(&made, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC));
        }
        println!("{:?} for one", began.elapsed() / TIMES);
        assert_eq!(nix::unistd::geteuid().as_raw(), 0, "the test itself is still root");
    }

    #[test]
    fn cgroup_that_is_gone_is_an_error() {
        let netns = File::open("/proc/self/ns/net").unwrap();
        let owner = SocketOwner { cgroups: [u64::MAX - 1; 2], uid: 0, gid: 0 };
        let error = socket(&owner, netns.as_fd(), Domain::IPV4, Type::STREAM).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
