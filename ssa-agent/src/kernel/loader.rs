//! Loader of the hooks: loads them, attaches them to the root of the cgroups, and pins what must outlive the agent.
//!
//! Pinned under `BPFFS/ssa/v<ABI>-<name of the agent>/`: the maps, and a folder `guards` with the links of the guards. A
//! new agent of the same name opens the same maps and puts its programs into the same links, one by one and each in one
//! step, so that no packet or call ever finds a guard missing.

use super::{
    bpf,
    error::Error,
    fmod_ret,
    leftovers::Pins,
    maps::all::Maps,
    objects::{HOOKS, STEER},
};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, ProgramArray},
    programs::{Program, ProgramError, ProgramFd},
};
use aya_log::{EbpfLogger, Level};
use aya_obj::generated::bpf_attach_type::{self, *};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use ssa_common::ABI_VERSION;
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tracing::{debug, info};

/// Maps that outlive the agent. The arrays of [`GATED_PROGRAMS`] do not: that is how the guards know that it is gone.
const PINNED_MAPS: [&str; 29] = [
    "AGENT_LISTENERS",
    "BARRED",
    "BIND_CALLERS",
    "BLOBS",
    "CERTIFICATES",
    "CGROUP_CLASSES",
    "CGROUPS",
    "CHAINS",
    "CIPHERS",
    "CIPHER_NAMES",
    "CONNECTIONS",
    "CONTEXTS",
    "COUNTERS",
    "EVENTS",
    "FAST_OPEN",
    "IDS",
    "LEGS",
    "LISTENING",
    "PARKED",
    "PATHS",
    "POLICIES",
    "RULE_ADDRESSES",
    "RULE_PORTS",
    "SCRATCH",
    "SERVICES",
    "SOCKETS",
    "SOCKET_CALLS",
    "USERS",
    "USER_CLASSES",
];

/// Guards: programs whose links outlive the agent, in the order in which they are attached: those that hold and keep
/// out before those that make TLS sockets. They are detached the other way round.
const GUARDS: [(&str, bpf_attach_type); 16] = [
    ("ssa_egress", BPF_CGROUP_INET_EGRESS),
    ("ssa_ingress", BPF_CGROUP_INET_INGRESS),
    ("ssa_release", BPF_CGROUP_INET_SOCK_RELEASE),
    ("ssa_sock_ops", BPF_CGROUP_SOCK_OPS),
    ("ssa_bind4", BPF_CGROUP_INET4_BIND),
    ("ssa_bind6", BPF_CGROUP_INET6_BIND),
    ("ssa_sendmsg4", BPF_CGROUP_UDP4_SENDMSG),
    ("ssa_sendmsg6", BPF_CGROUP_UDP6_SENDMSG),
    ("ssa_connect4", BPF_CGROUP_INET4_CONNECT),
    ("ssa_connect6", BPF_CGROUP_INET6_CONNECT),
    ("ssa_peername4", BPF_CGROUP_INET4_GETPEERNAME),
    ("ssa_peername6", BPF_CGROUP_INET6_GETPEERNAME),
    ("ssa_sockname4", BPF_CGROUP_INET4_GETSOCKNAME),
    ("ssa_sockname6", BPF_CGROUP_INET6_GETSOCKNAME),
    ("ssa_getsockopt", BPF_CGROUP_GETSOCKOPT),
    ("ssa_setsockopt", BPF_CGROUP_SETSOCKOPT),
];

/// The hook that makes TLS sockets in `socket(2)`; only where [`fmod_ret`] programs can be had.
const CREATE: (&str, bpf_attach_type) = ("ssa_create", BPF_CGROUP_INET_SOCK_CREATE);

/// Programs that guards tail-call, by the array of programs that has them. The kernel empties such an array
/// (BPF_MAP_TYPE_PROG_ARRAY) when user space has no reference to it any more: so the tail calls fail, and the guards
/// refuse, as soon as the agent is gone.
const GATED_PROGRAMS: [(&str, &[&str]); 3] = [
    ("LIVE_CONNECT4", &["ssa_live_conn4"]),
    ("LIVE_CONNECT6", &["ssa_live_conn6"]),
    ("LIVE_SETSOCKOPT", &["ssa_live_set"]),
];

/// The programs and maps of an agent, loaded and not attached yet.
pub(crate) struct LoadedHooks {
    /// Hooks, to be attached.
    pub(crate) hooks: Hooks,
    /// Handles of the maps, to be given out.
    pub(crate) maps: Maps,
    /// Reader of the hooks' own log messages; none unless they are wanted.
    pub(crate) logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// State of the guards: whether they let TLS sockets be.
enum Guards {
    /// Every option and every connect is refused.
    Closed,
    /// Options can be set, and sockets connect. Has user space's only references to the arrays of [`GATED_PROGRAMS`].
    Open(Vec<ProgramArray<aya::maps::MapData>>),
}

/// Hooks: loaded and attached once. Dropping them leaves the guards attached, and closed.
pub(crate) struct Hooks {
    guards: Guards,
    /// Object that keeps the programs which the arrays name.
    ebpf: Ebpf,
    /// Whether `socket(2)` can take `IPPROTO_TLS`.
    socket_call: bool,
    /// Name of the agent.
    name: String,
    pins: PathBuf,
    /// Pins that an agent of this name, of another version, has left.
    others: Vec<Pins>,
    /// Lock of the agent that serves; none while another one takes over.
    lock: Option<Flock<File>>,
}

impl Hooks {
    /// Loads the programs of the agent of this name, with the maps that one of the same name has left, or uses: then,
    /// if this one is to take its place (`in_place`), it has to [`Self::lock_again`]. `bpffs` is mounted if nothing is
    /// there. Blocks. Errors: [`Error::Busy`] if an agent of this name serves, and what the kernel refuses.
    pub(crate) fn load(name: &str, bpffs: &Path, in_place: bool) -> Result<LoadedHooks, Error> {
        let pins = pin_folder(bpffs, name)?;
        let lock = if in_place { None } else { Some(lock(&pins)?) };
        let others = other_versions(name, bpffs)?;
        let mut loader = EbpfLoader::new();
        // Nothing is relocated against the kernel's types, whose reading would take a tenth of a second.
        loader.btf(None);
        for name in PINNED_MAPS {
            loader.map_pin_path(name, pins.join(name));
        }
        loader.map_pin_path(OWNERS, owners_pin(bpffs)?);
        let verbose = tracing::enabled!(target: "ssa_hooks", tracing::Level::DEBUG);
        let level = if verbose { Level::Debug as u8 } else { 0 };
        let registers = u32::from(registers_can_be_read());
        loader.override_global("READ_REGISTERS", &registers, true).override_global(aya_log::LEVEL, &level, true);
        let mut ebpf = {
            // Of two agents that start at once, one makes the shared map and the other opens it.
            let _turn = wait_for_turn(bpffs)?;
            loader.load(&HOOKS.0).map_err(Box::new)?
        };
        let logger = if verbose { EbpfLogger::init(&mut ebpf).ok() } else { None };
        let gated = GATED_PROGRAMS.iter().flat_map(|(_array, names)| names.iter().copied());
        for name in GUARDS.map(|(name, _kind)| name).into_iter().chain(gated) {
            load(&mut ebpf, name)?;
        }
        let socket_call = socket_call(&mut ebpf, &pins, bpffs);
        if let Err(error) = &socket_call {
            let error = error as &dyn std::error::Error;
            info!(error, "socket(..., IPPROTO_TLS) can't be had; options make TLS sockets of plain ones, as ever");
        }
        let maps = Maps::take(&mut ebpf, &pins, name)?;
        let (guards, socket_call) = (Guards::Closed, socket_call.is_ok());
        let hooks = Self { guards, ebpf, socket_call, name: name.to_owned(), pins, others, lock };
        Ok(LoadedHooks { hooks, maps, logger })
    }

    /// Lets another agent of the same name be the one that serves.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
    }

    /// Becomes the agent that serves, as soon as no other does. Errors: [`Error::Busy`] after 10 s.
    pub(crate) async fn lock_again(&mut self) -> Result<(), Error> {
        const LIMIT: Duration = Duration::from_secs(10);
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            match lock(&self.pins) {
                Ok(lock) => {
                    self.lock = Some(lock);
                    return Ok(());
                }
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
                Err(_busy) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Attaches the hooks to the root of the cgroups, or puts the programs into the links that are there. What they find
    /// in the maps holds from here on. Errors: [`Error::Cgroup`], [`Error::Attach`], [`Error::Bpffs`].
    pub(crate) fn attach(&mut self, root: &Path) -> Result<(), Error> {
        let directory = File::open(root).map_err(|source| Error::Cgroup { path: root.to_owned(), source })?;
        let guards = self.guards();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&guards)
            .map_err(|source| Error::Bpffs { path: guards.clone(), source })?;
        let create = self.socket_call.then_some(CREATE);
        if create.is_none() {
            // Of an agent that could.
            unpin(&guards, CREATE.0)?;
        }
        for (name, kind) in GUARDS.into_iter().chain(create) {
            let program = program_fd(&self.ebpf, name)?;
            guard(&guards.join(name), program, &directory, kind)
                .map_err(|source| Error::Attach { program: name, source })?;
        }
        self.replace_other_versions()
    }

    /// Announces that the agent lives: from here on options can be set and sockets connect.
    pub(crate) fn open(&mut self) -> Result<(), Error> {
        if matches!(self.guards, Guards::Open(_)) {
            return Ok(());
        }
        let mut arrays = Vec::new();
        for (array, names) in GATED_PROGRAMS {
            let map = self.ebpf.take_map(array).ok_or(Error::Missing { name: array })?;
            let failed = |source| Error::Map { name: array, source };
            let mut map = ProgramArray::try_from(map).map_err(failed)?;
            for (index, name) in (0..).zip(names) {
                map.set(index, program_fd(&self.ebpf, name)?, 0).map_err(failed)?;
            }
            arrays.push(map);
        }
        self.guards = Guards::Open(arrays);
        Ok(())
    }

    /// Takes [`Self::open`] back, for good: every option and every connect is refused.
    pub(crate) fn close(&mut self) {
        let Guards::Open(arrays) = &mut self.guards else { return };
        for (array, (_name, programs)) in arrays.iter_mut().zip(GATED_PROGRAMS) {
            for (index, _program) in (0..).zip(programs) {
                // Absent is as good as cleared.
                let _absent = array.clear_index(&index);
            }
        }
    }

    /// Detaches the hooks that make TLS sockets.
    pub(crate) fn detach_options(&self) -> Result<(), Error> {
        fmod_ret::unpin_marker(&self.pins).map_err(|source| Error::Bpffs { path: self.pins.clone(), source })?;
        detach_link(&self.guards(), "ssa_setsockopt")
    }

    /// Detaches all guards, and removes the maps' pins. Only right when no TLS socket is left: an open one would turn
    /// into a plain one.
    pub(crate) fn unload(self) -> Result<(), Error> {
        self.own_pins().remove()
    }

    /// Pins of this agent.
    fn own_pins(&self) -> Pins {
        Pins { name: self.name.clone(), abi: ABI_VERSION, path: self.pins.clone() }
    }

    /// Takes away what an agent of this name, of another version, has left. Called when the guards of this one are
    /// attached.
    fn replace_other_versions(&mut self) -> Result<(), Error> {
        for other in std::mem::take(&mut self.others) {
            other.remove()?;
            info!(version = other.abi, "took the place of what an agent of another version had left");
        }
        Ok(())
    }

    fn guards(&self) -> PathBuf {
        self.pins.join(GUARDS_FOLDER)
    }
}

/// Name of the folder of the guards' links, in that of an agent's pins.
const GUARDS_FOLDER: &str = "guards";

/// Hooks that make TLS sockets: detached before the others.
pub(super) const MAKERS: [&str; 2] = [CREATE.0, "ssa_setsockopt"];

/// Result of [`trial`].
pub(crate) struct LoadTrial {
    /// Programs by name: the count of instructions that the verifier followed, or why the kernel refused it.
    pub(crate) programs: Vec<(String, Result<u64, Error>)>,
    /// Programs for `socket(2)`, without which the agent runs: names and counts of instructions, or why they can't be
    /// had.
    pub(crate) socket_call: Result<Vec<(String, u64)>, Error>,
}

/// Loads every program and lets it go; attaches and pins nothing. Blocks.
pub(crate) fn trial() -> LoadTrial {
    let names = GUARDS
        .map(|(name, _kind)| name)
        .into_iter()
        .chain(GATED_PROGRAMS.iter().flat_map(|(_, names)| names.iter().copied()));
    let mut programs: Vec<(String, Result<u64, Error>)> = Vec::new();
    let mut socket_call = Err(Error::Missing { name: CREATE.0 });
    let mut loader = EbpfLoader::new();
    let loaded =
        loader.btf(None).override_global("READ_REGISTERS", &u32::from(registers_can_be_read()), true).load(&HOOKS.0);
    match loaded {
        Ok(mut ebpf) => {
            programs.extend(names.map(|name| (name.to_owned(), try_one(&mut ebpf, name))));
            socket_call = try_socket_call(&mut ebpf);
        }
        Err(error) => programs.push(("ssa-hooks".to_owned(), Err(Box::new(error).into()))),
    }
    let steer = EbpfLoader::new().btf(None).load(&STEER.0).map_err(|error| Box::new(error).into());
    programs.push(("ssa_steer".to_owned(), steer.and_then(|mut ebpf| try_one(&mut ebpf, "ssa_steer"))));
    LoadTrial { programs, socket_call }
}

fn try_one(ebpf: &mut Ebpf, name: &'static str) -> Result<u64, Error> {
    load(ebpf, name)?;
    Ok(bpf::verified_instructions(program_fd(ebpf, name)?.as_fd()))
}

fn try_socket_call(ebpf: &mut Ebpf) -> Result<Vec<(String, u64)>, Error> {
    let programs = fmod_ret::load(|name| {
        let (Map::HashMap(map) | Map::Array(map)) = ebpf.map(name)? else { return None };
        map.fd().as_fd().try_clone_to_owned().ok()
    })?;
    let mut counts: Vec<(String, u64)> = programs
        .iter()
        .map(|loaded| (loaded.name.to_owned(), bpf::verified_instructions(loaded.program.as_fd())))
        .collect();
    counts.push((CREATE.0.to_owned(), try_one(ebpf, CREATE.0)?));
    Ok(counts)
}

/// Whether hooks may look at a system call's registers: on x86-64, unless the kernel is locked down
/// (kernel_lockdown(7)), where a program that reads kernel memory would not load.
fn registers_can_be_read() -> bool {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    cfg!(target_arch = "x86_64") && !lockdown.contains("[confidentiality]")
}

/// Lets `socket(2)` take `IPPROTO_TLS` in cgroups that are attached.
fn socket_call(ebpf: &mut Ebpf, pins: &Path, bpffs: &Path) -> Result<(), Error> {
    let shared = owners_pin(bpffs)?;
    let pin = |map: &str| if map == OWNERS { shared.clone() } else { pins.join(map) };
    let programs = fmod_ret::load(|map| bpf::pinned(&pin(map)).ok())?;
    load(ebpf, CREATE.0)?;
    Ok(fmod_ret::attach(&programs, pins)?)
}

/// Detaches a guard's link and removes its pin. Without its pin alone it would run on for a moment: the kernel frees links from
/// a work queue (`bpf_link_put` in kernel/bpf/syscall.c, Linux 6.1).
pub(super) fn detach_link(pins: &Path, name: &str) -> Result<(), Error> {
    if let Ok(link) = bpf::pinned(&pins.join(name)) {
        // The cgroup is gone, and its programs with it.
        let _gone = bpf::link_detach(link.as_fd());
    }
    unpin(pins, name)
}

pub(super) fn unpin(pins: &Path, name: &str) -> Result<(), Error> {
    match fs::remove_file(pins.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Bpffs { path: pins.join(name), source: error })
        }
        Ok(()) | Err(_) => {
            debug!(name, "unpinned");
            Ok(())
        }
    }
}

/// Puts a program into the guard's pinned link, which is made if there is none, or if it is of no cgroup any more: an agent
/// was killed after it had detached the link and before it removed the pin (`ENOLINK`, `cgroup_bpf_replace` in
/// kernel/bpf/cgroup.c, Linux 6.1).
fn guard(pin: &Path, program: &ProgramFd, cgroup: &File, kind: bpf_attach_type) -> io::Result<()> {
    match bpf::pinned(pin) {
        Ok(link) => match bpf::link_update(link.as_fd(), program.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => fs::remove_file(pin)?,
            updated => return updated,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let link: OwnedFd = bpf::link_create(program.as_fd(), cgroup.as_fd(), kind)?;
    bpf::pin(link.as_fd(), pin)
}

fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing { name })?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "the object holds these kinds only")]
    let loaded = match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => return Err(Error::Missing { name }),
    };
    loaded.map_err(|source| refused(name, source))
}

/// Makes the error of a program that can't be loaded. The verifier's log is long, and for developers: it is logged for
/// debugging.
fn refused(name: &'static str, error: ProgramError) -> Error {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        debug!(name, %verifier_log, "the verifier refused a program");
        return Error::Verifier { name, source: io_error };
    }
    Error::Program { name, source: Box::new(error) }
}

fn program_fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a ProgramFd, Error> {
    let program = ebpf.program(name).ok_or(Error::Missing { name })?;
    program.fd().map_err(|source| Error::Program { name, source: Box::new(source) })
}

/// Name of the map that all agents of this version share.
pub(super) const OWNERS: &str = "OWNERS";

/// Path of the pin of [`OWNERS`]; its folder is made, for root only.
pub(super) fn owners_pin(bpffs: &Path) -> Result<PathBuf, Error> {
    let folder = bpffs.join("ssa").join(format!("v{ABI_VERSION}"));
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|source| Error::Bpffs { path: folder.clone(), source })?;
    Ok(folder.join(OWNERS))
}

/// Locks the folder of the shared map; waits for other agents that are about to open it.
fn wait_for_turn(bpffs: &Path) -> Result<Flock<File>, Error> {
    let pin = owners_pin(bpffs)?;
    let failed = |source: io::Error| Error::Bpffs { path: pin.clone(), source };
    let folder = File::open(pin.parent().expect("it has a folder")).map_err(failed)?;
    Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_folder, errno)| failed(errno.into()))
}

/// Makes the folder of an agent's pins, for root only.
fn pin_folder(bpffs: &Path, name: &str) -> Result<PathBuf, Error> {
    let failed = |source| Error::Bpffs { path: bpffs.to_owned(), source };
    if statfs(bpffs).map_err(|errno| failed(errno.into()))?.filesystem_type() != BPF_FS_MAGIC {
        mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|errno| failed(errno.into()))?;
    }
    let pins = bpffs.join("ssa").join(format!("v{ABI_VERSION}-{name}"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&pins).map_err(failed)?;
    Ok(pins)
}

/// Pins that an agent of this name, of another version, has left. Errors: [`Error::OtherVersion`] if it runs, or if
/// TLS sockets depend on its guards.
fn other_versions(name: &str, bpffs: &Path) -> Result<Vec<Pins>, Error> {
    let others: Vec<Pins> =
        Pins::all(bpffs).into_iter().filter(|pins| pins.name == name && !pins.is_own_version()).collect();
    for other in &others {
        let (path, open) = (other.path.clone(), other.open_sockets());
        if other.is_in_use() {
            return Err(Error::OtherVersion { path, what: "an agent of another version serves: end it first" });
        }
        if open != 0 {
            return Err(Error::OtherVersion {
                path,
                what: "TLS sockets depend on guards of another version: restart their applications, or open them by \
                       `ssa-agent cleanup --plaintext`",
            });
        }
    }
    Ok(others)
}

/// Locks the folder of the pins: two agents of one name would both hold, and both answer.
fn lock(pins: &Path) -> Result<Flock<File>, Error> {
    let folder = File::open(pins).map_err(|source| Error::Bpffs { path: pins.to_owned(), source })?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock)
        .map_err(|(_folder, _errno)| Error::Busy { path: pins.to_owned() })
}
