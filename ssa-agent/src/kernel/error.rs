//! The kernel half, seen from the agent: hooks of a cgroup, their maps and their events.

use super::fmod_ret;
use std::{io, path::PathBuf};

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("attaching {program} to the cgroup failed")]
    Attach { program: &'static str, source: io::Error },
    #[error("bpffs at {}", path.display())]
    Bpffs { path: PathBuf, source: io::Error },
    #[error("another agent serves this cgroup (its pins are in {})", path.display())]
    Busy { path: PathBuf },
    #[error("cgroup {}", path.display())]
    Cgroup { path: PathBuf, source: io::Error },
    #[error(transparent)]
    FmodRet(#[from] fmod_ret::Error),
    #[error("loading the eBPF programs failed")]
    Load(#[from] Box<aya::EbpfError>),
    #[error("map {name}")]
    Map { name: &'static str, source: aya::maps::MapError },
    #[error("the eBPF object lacks {name}")]
    Missing { name: &'static str },
    #[error("cgroup {}, above or below this one, is attached already; each may be attached once", path.display())]
    Nested { path: PathBuf },
    #[error("loading the eBPF program {name} failed")]
    Program { name: &'static str, source: Box<aya::programs::ProgramError> },
    #[error("the kernel refused the eBPF program {name} (--log debug shows why)")]
    Verifier { name: &'static str, source: io::Error },
}

/// The kernel's version: major, minor.
pub(crate) fn release() -> (u32, u32) {
    let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// An object of the agent's own file, aligned as ELF wants it.
#[repr(C, align(8))]
pub(crate) struct Object<Bytes: ?Sized>(pub(crate) Bytes);

/// The hooks of a cgroup.
pub(crate) static HOOKS: &Object<[u8]> = &Object(*include_bytes!(concat!(env!("OUT_DIR"), "/ssa-hooks")));
/// The steering of a network namespace.
pub(crate) static STEER: &Object<[u8]> = &Object(*include_bytes!(concat!(env!("OUT_DIR"), "/ssa-steer")));
