//! Loader of the hooks: loads them, attaches them to cgroups, and pins what must outlive the agent.
//!
//! Pinned under `BPFFS/ssa/v<ABI>-<name of the agent>/`: the maps, and for each cgroup a folder named by its inode with
//! the links of its guards. A new agent of the same name opens the same maps and puts its programs into the same links,
//! one by one and each in one step, so that no packet or call ever finds a guard missing.

use super::{
    bpf,
    error::Error,
    fmod_ret,
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
use ssa_common::{ABI_VERSION, socket::Service};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tracing::{debug, info};

/// Maps that outlive the agent. The arrays of [`GATED_PROGRAMS`] do not: that is how the guards know that it is gone.
const PINNED_MAPS: [&str; 28] = [
    "AGENT_LISTENERS",
    "ATTACHED",
    "BIND_CALLERS",
    "BLOBS",
    "CERTIFICATES",
    "CGROUP_CLASSES",
    "CGROUP_RULES",
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

/// Hooks: loaded once, attached to any number of cgroups. Dropping them leaves the guards attached, and closed.
pub(crate) struct Hooks {
    guards: Guards,
    /// Object that keeps the programs which the arrays name.
    ebpf: Ebpf,
    /// Whether `socket(2)` can take `IPPROTO_TLS`.
    socket_call: bool,
    services: OwnedFd,
    attached: OwnedFd,
    pins: PathBuf,
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
        let mut loader = EbpfLoader::new();
        // Nothing is relocated against the kernel's types, whose reading would take a tenth of a second.
        loader.btf(None);
        for name in PINNED_MAPS {
            loader.map_pin_path(name, pins.join(name));
        }
        let verbose = tracing::enabled!(target: "ssa_hooks", tracing::Level::DEBUG);
        let level = if verbose { Level::Debug as u8 } else { 0 };
        let registers = u32::from(registers_can_be_read());
        loader.override_global("READ_REGISTERS", &registers, true).override_global(aya_log::LEVEL, &level, true);
        let mut ebpf = loader.load(&HOOKS.0).map_err(Box::new)?;
        let logger = if verbose { EbpfLogger::init(&mut ebpf).ok() } else { None };
        let gated = GATED_PROGRAMS.iter().flat_map(|(_array, names)| names.iter().copied());
        for name in GUARDS.map(|(name, _kind)| name).into_iter().chain(gated) {
            load(&mut ebpf, name)?;
        }
        let socket_call = socket_call(&mut ebpf, &pins);
        if let Err(error) = &socket_call {
            let error = error as &dyn std::error::Error;
            info!(error, "socket(..., IPPROTO_TLS) can't be had; options make TLS sockets of plain ones, as ever");
        }
        let maps = Maps::take(&mut ebpf, &pins)?;
        let pinned = |name: &str| {
            let path = pins.join(name);
            bpf::pinned(&path).map_err(|source| Error::Bpffs { path, source })
        };
        let (services, attached) = (pinned("SERVICES")?, pinned("ATTACHED")?);
        let (guards, socket_call) = (Guards::Closed, socket_call.is_ok());
        let hooks = Self { guards, ebpf, socket_call, services, attached, pins, lock };
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

    /// Attaches the hooks to a cgroup, or puts the programs into the links that are there. Returns the cgroup's inode,
    /// and whether nothing was there. Errors: [`Error::Nested`], [`Error::Cgroup`], [`Error::Attach`].
    pub(crate) fn attach(&mut self, cgroup: &Path) -> Result<(u64, bool), Error> {
        let broken = |source| Error::Cgroup { path: cgroup.to_owned(), source };
        let directory = File::open(cgroup).map_err(broken)?;
        let id = directory.metadata().map_err(broken)?.ino();
        let pins = self.folder(id);
        refuse_nested(cgroup, &self.pins)?;
        let fresh = !pins.exists();
        let attached = self.attach_guards(id, &directory, &pins);
        if attached.is_err() && fresh {
            // Half attached, and no TLS socket can have been made: the hook that makes them comes last.
            let _as_far_as_it_went = self.forget(id);
        }
        attached.map(|()| (id, fresh))
    }

    fn attach_guards(&self, id: u64, directory: &File, pins: &Path) -> Result<(), Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(pins)
            .map_err(|source| Error::Bpffs { path: pins.to_owned(), source })?;
        let create = self.socket_call.then_some(CREATE);
        if create.is_none() {
            // Of an agent that could.
            unpin(pins, CREATE.0)?;
        }
        for (name, kind) in GUARDS.into_iter().chain(create) {
            let failed = |source| Error::Attach { program: name, source };
            let program = program_fd(&self.ebpf, name)?;
            guard(&pins.join(name), program, directory, kind).map_err(failed)?;
            if name == "ssa_release" {
                // The kernel has made the cgroup's value by now, and no TLS socket can be made yet.
                self.name_service(id).map_err(failed)?;
            }
        }
        if create.is_some() {
            bpf::map_insert(self.attached.as_fd(), &id, &1_u32)
                .map_err(|source| Error::Attach { program: CREATE.0, source })?;
        }
        Ok(())
    }

    /// Writes a cgroup's id where the hooks of the cgroup find it. The count of its sockets stays.
    fn name_service(&self, id: u64) -> io::Result<()> {
        let service: Service = bpf::map_get(self.services.as_fd(), &id)?;
        if service.id == id { Ok(()) } else { bpf::map_insert(self.services.as_fd(), &id, &Service { id, ..service }) }
    }

    /// Inodes of the cgroups that an agent of the same name has left attached.
    pub(crate) fn left_attached(&self) -> Vec<u64> {
        let entries = fs::read_dir(&self.pins).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
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

    /// Detaches the hooks that make TLS sockets in a cgroup.
    pub(crate) fn detach_options(&self, id: u64) -> Result<(), Error> {
        // Absent where `socket(2)` knows no TLS.
        let _absent = bpf::map_remove(self.attached.as_fd(), &id);
        detach_link(&self.folder(id), "ssa_setsockopt")
    }

    /// Detaches the guards of a cgroup. Only right when no TLS socket of it is left: an open one would turn into a
    /// plain one.
    pub(crate) fn detach(&self, id: u64) -> Result<(), Error> {
        detach_link(&self.folder(id), CREATE.0)?;
        self.forget(id)
    }

    /// Removes the pins of a cgroup, and with them its guards.
    pub(crate) fn forget(&self, id: u64) -> Result<(), Error> {
        let folder = self.folder(id);
        for name in GUARDS.iter().rev().map(|(name, _kind)| *name).chain([CREATE.0]) {
            detach_link(&folder, name)?;
        }
        fs::remove_dir(&folder).map_err(|source| Error::Bpffs { path: folder.clone(), source })
    }

    /// Removes the maps' pins, when no cgroup is attached any more.
    pub(crate) fn unload(self) -> Result<(), Error> {
        let failed = |source| Error::Bpffs { path: self.pins.clone(), source };
        fmod_ret::unpin_marker(&self.pins).map_err(failed)?;
        fmod_ret::unpin_others(&self.pins).map_err(failed)?;
        PINNED_MAPS.into_iter().try_for_each(|name| unpin(&self.pins, name))?;
        fs::remove_dir(&self.pins).map_err(failed)
    }

    fn folder(&self, id: u64) -> PathBuf {
        self.pins.join(id.to_string())
    }
}

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
fn socket_call(ebpf: &mut Ebpf, pins: &Path) -> Result<(), Error> {
    let programs = fmod_ret::load(|map| bpf::pinned(&pins.join(map)).ok())?;
    load(ebpf, CREATE.0)?;
    Ok(fmod_ret::attach(&programs, pins)?)
}

/// Detaches a guard's link and removes its pin. Without its pin alone it would run on for a moment: the kernel frees links from
/// a work queue (`bpf_link_put` in kernel/bpf/syscall.c, Linux 6.1).
fn detach_link(pins: &Path, name: &str) -> Result<(), Error> {
    if let Ok(link) = bpf::pinned(&pins.join(name)) {
        // The cgroup is gone, and its programs with it.
        let _gone = bpf::link_detach(link.as_fd());
    }
    unpin(pins, name)
}

fn unpin(pins: &Path, name: &str) -> Result<(), Error> {
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

/// Refuses a cgroup above or below one that is attached: its hooks run for those below it as well, so that each option
/// would be set twice, and each connect redirected twice.
fn refuse_nested(cgroup: &Path, pins: &Path) -> Result<(), Error> {
    let folder = pins.parent().expect("pins are in a folder of ours");
    let agents = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let agents: Vec<PathBuf> = agents.collect();
    let mut others: Vec<PathBuf> = cgroup.ancestors().skip(1).map(Path::to_owned).collect();
    let mut below = vec![cgroup.to_owned()];
    while let Some(parent) = below.pop() {
        let children = fs::read_dir(&parent).into_iter().flatten().flatten();
        below.extend(children.map(|child| child.path()).filter(|child| child.is_dir()));
        others.extend(below.iter().cloned());
        if others.len() > NESTED_MAX {
            break;
        }
    }
    for other in others {
        let attached = other.metadata().is_ok_and(|metadata| {
            let name = metadata.ino().to_string();
            agents.iter().any(|agent| agent.join(&name).exists()) && same_device(&metadata, cgroup)
        });
        if attached {
            return Err(Error::Nested { path: other });
        }
    }
    Ok(())
}

/// Most cgroups that are looked at; beyond, one that is attached may be missed.
const NESTED_MAX: usize = 10_000;

/// Whether two cgroups are of one file system: inodes are compared, and those of another one mean nothing.
fn same_device(metadata: &fs::Metadata, cgroup: &Path) -> bool {
    cgroup.metadata().is_ok_and(|own| own.dev() == metadata.dev())
}

/// Locks the folder of the pins: two agents of one name would both hold, and both answer.
fn lock(pins: &Path) -> Result<Flock<File>, Error> {
    let folder = File::open(pins).map_err(|source| Error::Bpffs { path: pins.to_owned(), source })?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock)
        .map_err(|(_folder, _errno)| Error::Busy { path: pins.to_owned() })
}
