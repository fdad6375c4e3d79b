//! Capabilities that the agent needs, each with its reason, and those that it has.

use std::fs;

/// A capability (capabilities(7)) and what it is needed for.
pub(crate) struct Capability {
    /// Number of its bit, as linux/capability.h has it.
    pub(crate) number: u32,
    /// Name as capabilities(7) has it.
    pub(crate) name: &'static str,
    /// Use that the agent makes of it.
    pub(crate) reason: &'static str,
}

/// Capabilities that the agent needs, and nothing else.
pub(crate) const CAPABILITIES: [Capability; 11] = [
    Capability {
        number: 1,
        name: "CAP_DAC_OVERRIDE",
        reason: "put the maker of a socket into the application's cgroup, whose firewall then holds for it",
    },
    Capability {
        number: 2,
        name: "CAP_DAC_READ_SEARCH",
        reason: "open a cgroup by its inode, the administrator's certificates and keys, files for applications of root",
    },
    Capability {
        number: 6,
        name: "CAP_SETGID",
        reason: "files that an application names are opened with its groups, sockets made with its group",
    },
    Capability {
        number: 7,
        name: "CAP_SETUID",
        reason: "files that an application names are opened, and sockets made, as its user",
    },
    Capability {
        number: 12,
        name: "CAP_NET_ADMIN",
        reason: "attach programs to cgroups and namespaces, end a listener that can't serve",
    },
    Capability { number: 13, name: "CAP_NET_RAW", reason: "resume or refuse a connect that is held" },
    Capability {
        number: 18,
        name: "CAP_SYS_CHROOT",
        reason: "files that an application names are opened below its root",
    },
    Capability {
        number: 19,
        name: "CAP_SYS_PTRACE",
        reason: "an application's root, working directory and namespaces (/proc/PID)",
    },
    Capability { number: 21, name: "CAP_SYS_ADMIN", reason: "enter an application's network namespace, mount a bpffs" },
    Capability {
        number: 38,
        name: "CAP_PERFMON",
        reason: "load tracing programs, and programs that read the kernel's memory",
    },
    Capability { number: 39, name: "CAP_BPF", reason: "load eBPF programs, make maps" },
];

/// Effective capabilities of this process: bit n is capability n. Zero if /proc can't be read.
pub(crate) fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let word = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    word.and_then(|word| u64::from_str_radix(word.trim(), 16).ok()).unwrap_or(0)
}
