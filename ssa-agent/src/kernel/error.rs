//! Errors of the kernel, of all that the agent asks of its eBPF half.

use std::{io, path::PathBuf};

use super::fmod_ret;

/// Request that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A program can't be attached to the cgroup.
    #[error("attaching {program} to the cgroup failed")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Error of bpf(2).
        source: io::Error,
    },
    /// The bpffs, or a pin in it, can't be had.
    #[error("bpffs at {}", path.display())]
    Bpffs {
        /// Mount point or pin.
        path: PathBuf,
        /// Error of the file system.
        source: io::Error,
    },
    /// Another agent of this name serves.
    #[error("another agent of this name runs (its pins are in {})", path.display())]
    Busy {
        /// Folder of the pins.
        path: PathBuf,
    },
    /// The cgroup can't be opened.
    #[error("cgroup {}", path.display())]
    Cgroup {
        /// Path of the cgroup.
        path: PathBuf,
        /// Error of opening it.
        source: io::Error,
    },
    /// The programs for `socket(2)` can't be had.
    #[error(transparent)]
    FmodRet(#[from] fmod_ret::Error),
    /// The eBPF object can't be loaded.
    #[error("loading the eBPF programs failed")]
    Load(#[from] Box<aya::EbpfError>),
    /// A map can't be read or written, such as one that is full.
    #[error("map {name}")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// Error of aya, or of bpf(2).
        source: aya::maps::MapError,
    },
    /// The eBPF object lacks a map or program.
    #[error("the eBPF object lacks {name}")]
    Missing {
        /// Name of the map or program.
        name: &'static str,
    },
    /// An agent of this name, of another version, runs, or has left guards on which something depends.
    #[error("{what} (its pins are in {})", path.display())]
    OtherVersion {
        /// Folder of its pins.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: &'static str,
    },
    /// A program can't be loaded.
    #[error("loading the eBPF program {name} failed")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// Error of aya, or of bpf(2).
        source: Box<aya::programs::ProgramError>,
    },
    /// The verifier refuses a program.
    #[error("the kernel refused the eBPF program {name} (--log debug shows why)")]
    Verifier {
        /// Name of the program.
        name: &'static str,
        /// Error of bpf(2).
        source: io::Error,
    },
}
