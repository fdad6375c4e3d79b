//! The programs that let `socket(2)` take `IPPROTO_TLS`: of type `fmod_ret` (tracing programs that may change what
//! a function of the kernel returns), which aya does not know.
//!
//! They are pinned with the guards, under names that tell what is in them: an agent that finds the very same
//! programs leaves them alone, as links of this type can't be updated; others are replaced.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya_obj::{
    Object,
    btf::{Btf, BtfKind},
    generated::bpf_insn,
};
use tracing::debug;

use super::{
    bpf,
    objects::{HOOKS, release},
};

/// Programs and the kernel's functions that they are for, in the order in which they are attached: the one that leaves
/// marks comes last, and is detached first.
const PROGRAMS: [(&str, &str); 3] = [
    ("ssa_created", "security_socket_post_create"),
    ("ssa_creating", "security_socket_create"),
    (MARKER, "update_socket_protocol"),
];
/// Name of the program that leaves marks.
const MARKER: &str = "ssa_protocol";

/// Reason why `socket(2)` can't take `IPPROTO_TLS`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The kernel is older than 6.6, and lacks `update_socket_protocol`.
    #[error("Linux 6.6 or later is needed")]
    Old,
    /// The kernel's type information (BTF) can't be read.
    #[error("the kernel's type information can't be read")]
    Btf(#[from] aya_obj::btf::BtfError),
    /// The kernel lacks a function that a program is for.
    #[error("the kernel has no function {function}")]
    Function {
        /// Name of the kernel's function.
        function: &'static str,
    },
    /// The kernel refuses a program.
    #[error("the kernel refuses tracing programs ({name})")]
    Load {
        /// Name of the program.
        name: &'static str,
        /// Error of bpf(2).
        source: io::Error,
    },
    /// A program can't be attached, or its link not be pinned.
    #[error("attaching {name} failed")]
    Attach {
        /// Name of the program.
        name: &'static str,
        /// Error of bpf(2), or of the bpffs.
        source: io::Error,
    },
    /// The eBPF object that the agent carries is broken.
    #[error("the eBPF object is broken ({name})")]
    Object {
        /// Name of the program, map or object.
        name: &'static str,
    },
}

/// A program that is loaded.
pub(crate) struct Loaded {
    /// Name of the program.
    pub(crate) name: &'static str,
    /// Descriptor of the program.
    pub(crate) program: OwnedFd,
    /// Name of its pin: the program's name, and a digest of its instructions.
    pin: String,
}

/// Loads the programs; `map` opens a map by its name.
pub(crate) fn load(map: impl Fn(&str) -> Option<OwnedFd>) -> Result<Vec<Loaded>, Error> {
    if release() < (6, 6) {
        return Err(Error::Old);
    }
    let broken = |name| Error::Object { name };
    let mut object = Object::parse(&HOOKS.0).map_err(|_error| broken("ssa-hooks"))?;
    let keys = PROGRAMS.map(|(name, _function)| object.programs.get(name).map(aya_obj::Program::function_key));
    let digests =
        keys.map(|key| key.and_then(|key| object.functions.get(&key)).map(|function| digest(&function.instructions)));
    let names: Vec<String> = object.maps.keys().cloned().collect();
    let maps: Vec<(String, Option<OwnedFd>, aya_obj::Map)> = names
        .into_iter()
        .filter_map(|name| Some((name.clone(), map(&name), object.maps.get(&name)?.clone())))
        .collect();
    // Maps that these programs don't use may be missing.
    let fds = maps.iter().map(|(name, fd, map)| (name.as_str(), fd.as_ref().map_or(-1, |fd| fd.as_raw_fd()), map));
    let sections = object.functions.keys().map(|(section, _address)| *section).collect();
    object.relocate_maps(fds, &sections).map_err(|_error| broken("maps"))?;
    object.relocate_calls(&sections).map_err(|_error| broken("calls"))?;
    let btf = Btf::from_sys_fs()?;
    let mut loaded = Vec::new();
    for (((name, function), key), digest) in PROGRAMS.into_iter().zip(keys).zip(digests) {
        let target =
            btf.id_by_type_name_kind(function, BtfKind::Func).map_err(|_absent| Error::Function { function })?;
        let code = key.and_then(|key| object.functions.get(&key)).ok_or(broken(name))?;
        let program =
            bpf::load_fmod_ret(name, &code.instructions, &object.license, target).map_err(|(source, log)| {
                debug!(name, log, "the kernel refused a program");
                Error::Load { name, source }
            })?;
        loaded.push(Loaded { name, program, pin: format!("{name}-{}", digest.ok_or(broken(name))?) });
    }
    Ok(loaded)
}

/// Attaches the programs and pins their links in the folder `pins`, unless the very same are there.
pub(crate) fn attach(programs: &[Loaded], pins: &Path) -> Result<(), Error> {
    if programs.iter().all(|loaded| pins.join(&loaded.pin).exists()) {
        return Ok(());
    }
    unpin_marker(pins).map_err(failed(MARKER))?;
    unpin_others(pins).map_err(failed(MARKER))?;
    programs.iter().try_for_each(|loaded| {
        let link = bpf::raw_tracepoint_open(loaded.program.as_fd());
        link.and_then(|link| bpf::pin(link.as_fd(), &pins.join(&loaded.pin))).map_err(failed(loaded.name))
    })
}

fn failed(name: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Attach { name, source }
}

/// Detaches the program that leaves marks: `socket(2)` makes no TLS sockets from here on.
pub(crate) fn unpin_marker(pins: &Path) -> io::Result<()> {
    unpin(pins, |name| name == MARKER)
}

/// Detaches the programs that take marks: only right when no mark is left to be taken.
pub(crate) fn unpin_others(pins: &Path) -> io::Result<()> {
    unpin(pins, |name| name != MARKER)
}

fn unpin(pins: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(pins)? {
        let path: PathBuf = entry?.path();
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some((name, _digest)) = file.split_once('-') else { continue };
        if PROGRAMS.iter().any(|(known, _function)| *known == name) && which(name) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Digest that tells programs apart: of their instructions before maps have numbers.
fn digest(instructions: &[bpf_insn]) -> String {
    let bytes: Vec<u8> = instructions
        .iter()
        .flat_map(|insn| {
            let [o0, o1] = insn.off.to_ne_bytes();
            let [i0, i1, i2, i3] = insn.imm.to_ne_bytes();
            [insn.code, insn.dst_reg() | insn.src_reg() << 4, o0, o1, i0, i1, i2, i3]
        })
        .collect();
    openssl::sha::sha256(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
