//! What the kernel refused, of all that the agent asks of its eBPF half.

use std::{io, path::PathBuf};

use super::fmod_ret;

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
