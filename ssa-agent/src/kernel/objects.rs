//! eBPF objects that the agent carries inside it, and the version of the running kernel.

/// Version of the running kernel: major, minor. Zero where it can't be read.
pub(crate) fn release() -> (u32, u32) {
    let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// An ELF object inside the agent's own file, aligned as ELF wants it.
#[repr(C, align(8))]
pub(crate) struct Object<Bytes: ?Sized>(pub(crate) Bytes);

/// The hooks of a cgroup (`ssa-ebpf`, program `ssa-hooks`).
pub(crate) static HOOKS: &Object<[u8]> = &Object(*include_bytes!(concat!(env!("OUT_DIR"), "/ssa-hooks")));

/// The steering of a network namespace (program `ssa-steer`).
pub(crate) static STEER: &Object<[u8]> = &Object(*include_bytes!(concat!(env!("OUT_DIR"), "/ssa-steer")));
