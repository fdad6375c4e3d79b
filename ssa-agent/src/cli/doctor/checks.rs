//! Checks of a machine, thing by thing: whether it is there, why the agent needs it, what to do.

use std::{fs, path::Path};

use nix::{
    net::if_::InterfaceFlags,
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use serde::Serialize;
use ssa_common::limits::LOOPBACK_NETWORK;

use crate::telemetry::error_chain;
use crate::{
    kernel,
    sys::{
        capabilities::{CAPABILITIES, Capability, effective_capabilities},
        cgroup,
    },
};

/// Outcome of a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// The agent has what it needs.
    Good,
    /// The agent runs, and lacks something.
    Warning,
    /// The agent does not run, or not as it should.
    Failed,
}

/// Check of one thing.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// Name of the thing.
    pub(crate) name: &'static str,
    /// Outcome of the check.
    pub(crate) outcome: Outcome,
    /// State that was found.
    pub(crate) found: String,
    /// Use that the agent makes of it.
    pub(crate) why: &'static str,
    /// Advice what to do; empty if all is well.
    pub(crate) advice: String,
}

impl Check {
    fn new(name: &'static str, why: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Good, found: found.into(), why, advice: String::new() }
    }

    /// Makes the outcome [`Outcome::Failed`] unless `good`.
    fn need(self, good: bool, advice: impl Into<String>) -> Self {
        self.unless(good, Outcome::Failed, advice)
    }

    /// Makes the outcome [`Outcome::Warning`] unless `good`.
    fn want(self, good: bool, advice: impl Into<String>) -> Self {
        self.unless(good, Outcome::Warning, advice)
    }

    fn unless(mut self, good: bool, outcome: Outcome, advice: impl Into<String>) -> Self {
        if !good {
            self.outcome = outcome;
            self.advice = advice.into();
        }
        self
    }
}

/// Looks at everything that can be looked at without changing anything.
pub(crate) fn checks(bpffs: &Path) -> Vec<Check> {
    let mut checks = vec![kernel_version(), type_information(), cgroup2(), bpf_file_system(bpffs), capabilities()];
    checks.extend(programs());
    checks.extend([
        lockdown(),
        raw_sockets(),
        loopback(),
        ipv6(),
        open_files(),
        syn_cookies(),
        option_memory(),
        reused_ports(),
    ]);
    checks
}

fn kernel_version() -> Check {
    let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
    let check = Check::new("kernel", "connect hooks give exact errnos from Linux 6.1 on", release.unwrap_or_default());
    check.need(kernel::release() >= (6, 1), "run Linux 6.1 or later")
}

fn type_information() -> Check {
    let path = Path::new("/sys/kernel/btf/vmlinux");
    let found = if path.exists() { "/sys/kernel/btf/vmlinux" } else { "none" };
    let check = Check::new("BTF", "state that is kept with sockets is described by types", found);
    check.need(path.exists(), "run a kernel that is built with CONFIG_DEBUG_INFO_BTF")
}

fn cgroup2() -> Check {
    let mount = cgroup::mount();
    let found = mount.as_ref().map_or_else(ToString::to_string, |path| path.display().to_string());
    let check = Check::new("cgroup v2", "services are told apart by their cgroups", found);
    check.need(mount.is_ok(), "mount -t cgroup2 none /sys/fs/cgroup")
}

fn bpf_file_system(bpffs: &Path) -> Check {
    let mounted = statfs(bpffs).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    let found = format!("{}{}", bpffs.display(), if mounted { "" } else { " (not mounted: the agent will)" });
    let check = Check::new("bpffs", "guards that outlive the agent are pinned there", found);
    check.need(bpffs.is_dir(), format!("mkdir -p {0} && mount -t bpf bpf {0}", bpffs.display()))
}

fn capabilities() -> Check {
    let effective = effective_capabilities();
    let lacking: Vec<&Capability> =
        CAPABILITIES.iter().filter(|capability| effective >> capability.number & 1 == 0).collect();
    let names = |list: &[&Capability]| list.iter().map(|one| one.name).collect::<Vec<_>>().join(", ");
    let found =
        if lacking.is_empty() { "all that are needed".to_owned() } else { format!("without {}", names(&lacking)) };
    let reasons: Vec<String> = lacking.iter().map(|one| format!("{}: {}", one.name, one.reason)).collect();
    let check = Check::new("capabilities", "each is for one thing that only root may do", found);
    check.need(lacking.is_empty(), format!("run as root, or with these ambient capabilities: {}", reasons.join("; ")))
}

/// Checks whether each program loads, and lets it go.
fn programs() -> Vec<Check> {
    let trial = kernel::trial();
    let mut refused = Vec::new();
    let mut tracing = Vec::new();
    let mut loaded = 0;
    for (name, result) in &trial.programs {
        match result {
            Ok(_instructions) => loaded += 1,
            Err(error) => refused.push(format!("{name}: {}", error_chain(error))),
        }
    }
    if let Err(error) = &trial.socket_call {
        tracing.push(error_chain(error));
    }
    let found = if refused.is_empty() { format!("{loaded} load") } else { refused.join("; ") };
    let programs = Check::new("eBPF programs", "they are the kernel half of the agent", found);
    let found = if tracing.is_empty() { "can be had".to_owned() } else { tracing.join("; ") };
    let call = Check::new("socket(..., IPPROTO_TLS)", "tracing programs let socket(2) take the protocol", found);
    vec![
        programs.need(
            refused.is_empty(),
            "ssa-agent run --log debug says what the verifier found; run a kernel that is tested (docs/kernels.md)",
        ),
        call.want(tracing.is_empty(), "nothing, if applications make plain TCP sockets and set an option"),
    ]
}

fn lockdown() -> Check {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let mode = text.split('[').nth(1).and_then(|rest| rest.split(']').next()).unwrap_or("none");
    let check = Check::new("lockdown", "in mode confidentiality no program may read the kernel's memory", mode);
    check.want(
        mode != "confidentiality",
        "socket(..., IPPROTO_TLS) can't be had, and a null pointer to getsockopt may not give EFAULT",
    )
}

fn raw_sockets() -> Check {
    use socket2::{Domain, Protocol, Socket, Type};
    let made = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)));
    let found = made.as_ref().map_or_else(ToString::to_string, |_socket| "can be made".to_owned());
    let check = Check::new("raw sockets", "a connect that was held is resumed or refused by a packet", found);
    check.need(made.is_ok(), "give the agent CAP_NET_RAW")
}

fn loopback() -> Check {
    // Not /sys, which may be another namespace's.
    let mut interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let up = interfaces.any(|one| one.interface_name == "lo" && one.flags.contains(InterfaceFlags::IFF_UP));
    let check = Check::new("loopback", "applications and the agent meet there", if up { "up" } else { "down" });
    check.need(up, "ip link set lo up (in each network namespace with TLS sockets)")
}

fn ipv6() -> Check {
    let there = Path::new("/proc/net/if_inet6").exists();
    let check = Check::new("IPv6", "TLS sockets over IPv6 need ::1", if there { "there" } else { "off" });
    check.want(there, "nothing, if no application uses IPv6")
}

fn open_files() -> Check {
    const WANTED: u64 = 16_384;
    use nix::sys::resource::{Resource, getrlimit};
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_soft, hard)| hard);
    let check = Check::new("open files", "each connection takes two of them", hard.to_string());
    check.want(hard >= WANTED, format!("raise the limit (LimitNOFILE=, ulimit -n) to {WANTED} or more"))
}

fn sysctl(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/"))).ok()?.trim().parse().ok()
}

fn syn_cookies() -> Check {
    let value = sysctl("net.ipv4.tcp_syncookies").unwrap_or(1);
    let check = Check::new(
        "net.ipv4.tcp_syncookies",
        "a held connect is known by its SYN, which cookies forget",
        value.to_string(),
    );
    check.need(value != 2, "sysctl net.ipv4.tcp_syncookies=1")
}

fn option_memory() -> Check {
    const WANTED: u64 = 8192;
    let value = sysctl("net.core.optmem_max").unwrap_or(WANTED);
    let check = Check::new(
        "net.core.optmem_max",
        "the state of a TLS socket is kept in its option memory, in bytes",
        value.to_string(),
    );
    check.need(value >= WANTED, format!("sysctl net.core.optmem_max={WANTED}"))
}

fn reused_ports() -> Check {
    let value = sysctl("net.ipv4.tcp_tw_reuse").unwrap_or(2);
    let check = Check::new(
        "net.ipv4.tcp_tw_reuse",
        "ports of connections that have ended are used again on loopback",
        value.to_string(),
    );
    check.want(value != 0, "sysctl net.ipv4.tcp_tw_reuse=2, or IPv6 servers end at 470 connections a second")
}

/// Part of serving a cgroup for a moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trial {
    /// A plain socket fetches over TLS.
    Fetching,
    /// Connects are refused, and the refusals arrive.
    Refusals,
    /// The agent attaches, serves and detaches.
    Serving,
}

impl Trial {
    /// Name of the check, as people and machines are shown it.
    fn label(self) -> &'static str {
        match self {
            Self::Fetching => "fetching over TLS",
            Self::Refusals => "refusals",
            Self::Serving => "serving",
        }
    }
}

/// Makes the check of a part of serving a cgroup, by how it went.
pub(crate) fn trial(part: Trial, done: anyhow::Result<()>) -> Check {
    let (why, advice) = match part {
        Trial::Fetching => (
            "a connect that was held goes on by a packet on the loopback interface",
            format!("let the firewall pass TCP on lo (nft: iif lo accept), also for {LOOPBACK_NETWORK}"),
        ),
        Trial::Refusals => (
            "a refused connect ends by a packet on the loopback interface, or waits for a second or a minute",
            "let the firewall pass TCP and ICMP on lo (nft: iif lo accept; a policy of drop wants established,related)"
                .to_owned(),
        ),
        Trial::Serving => ("the agent attaches, serves and detaches", "see what was found".to_owned()),
    };
    let found = done.as_ref().map_or_else(|error| format!("{error:#}"), |()| "works".to_owned());
    Check::new(part.label(), why, found).need(done.is_ok(), advice)
}
