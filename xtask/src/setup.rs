//! `cargo xtask setup`: installs what a fresh Debian 12 machine lacks, and says why.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::{
    apt::Apt,
    process::{as_root, check, in_path, output, target_dir},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also what the tests need: peers (nginx, openssl), Python, a C++ compiler
    #[arg(long)]
    pub(crate) tests: bool,
}

/// A Debian package and what it is needed for.
struct Package {
    name: &'static str,
    reason: &'static str,
}

const BUILD: &[Package] = &[
    Package { name: "ca-certificates", reason: "the system's trust store" },
    Package { name: "gcc", reason: "links the executables" },
    Package { name: "libc6-dev", reason: "C headers for the linker's start files" },
    Package { name: "libssl-dev", reason: "OpenSSL, which speaks TLS" },
    Package { name: "pkg-config", reason: "finds OpenSSL" },
];

const TESTS: &[Package] = &[
    Package { name: "bpftool", reason: "shows what is attached" },
    Package { name: "curl", reason: "a real client" },
    Package { name: "faketime", reason: "answers of another day" },
    Package { name: "g++", reason: "the header must compile as C++" },
    Package { name: "gnutls-bin", reason: "a TLS client that is not OpenSSL" },
    Package { name: "iproute2", reason: "network namespaces" },
    Package { name: "libnginx-mod-stream", reason: "a TLS server that echoes nothing of ours" },
    Package { name: "netcat-openbsd", reason: "the plainest of clients" },
    Package { name: "nftables", reason: "black holes" },
    Package { name: "nginx-light", reason: "a real TLS server" },
    Package { name: "nodejs", reason: "applications with a runtime of their own" },
    Package { name: "openssl", reason: "s_server, another real TLS server" },
    Package { name: "postgresql", reason: "a server and a client that begin in plaintext" },
    Package { name: "python3", reason: "the applications under test" },
    Package { name: "redis-tools", reason: "a client, and the server, that know TLS or don't" },
    Package { name: "strace", reason: "makes system calls fail" },
    Package { name: "systemd", reason: "a journal, and a judge of the unit files" },
    Package { name: "libpython3.11-testsuite", reason: "CPython's own socket tests" },
];

const BENCH: &[Package] = &[
    Package { name: "haproxy", reason: "a peer of the bench" },
    Package { name: "hitch", reason: "a peer of the bench" },
    Package { name: "stunnel4", reason: "a peer of the bench" },
];

const IMAGE: &[Package] = &[
    Package { name: "binutils", reason: "strips the executable" },
    Package { name: "buildah", reason: "makes container images, without a daemon" },
    Package { name: "skopeo", reason: "tells an image's digest" },
];

const MANIFESTS: &[Package] = &[
    Package { name: "python3-venv", reason: "has Helm and the schemas of Kubernetes" },
    Package { name: "systemd", reason: "judges the unit" },
];

const PACKAGE: &[Package] = &[
    Package { name: "dpkg-dev", reason: "finds the libraries that the package depends on" },
    Package { name: "mmdebstrap", reason: "makes a clean Debian for its trial" },
];

const VM: &[Package] = &[
    Package { name: "busybox-static", reason: "the first process of a virtual machine" },
    Package { name: "cpio", reason: "makes its initramfs" },
    Package { name: "kmod", reason: "finds the modules that it boots with" },
    Package { name: "qemu-system-x86", reason: "runs virtual machines, and shares the file system with them" },
    Package { name: "xz-utils", reason: "unpacks modules" },
];

/// The linker's version that uses rustc 1.95's own LLVM.
const BPF_LINKER: &str = "0.10.3";

const CARGO_DEB: &str = "3.8.0";

const CARGO_FUZZ: &str = "0.13.2";

/// Debian's package of the library sources of rustc 1.95.0, for where rustup can't download.
const RUST_SRC_DEB: &str = "rust-src=1.95.0+dfsg1-2~bpo13+1";
const RUST_SRC_SUITE: &str = "trixie-backports";

pub(crate) fn run(args: &Args) -> Result<()> {
    packages(BUILD)?;
    if args.tests {
        packages(TESTS)?;
    }
    rust_src()?;
    bpf_linker()
}

/// The peers that only the bench needs.
pub(crate) fn bench() -> Result<()> {
    packages(BENCH)
}

/// Installs what only container images need.
pub(crate) fn image() -> Result<()> {
    packages(IMAGE)
}

/// Installs what only checking manifests needs.
pub(crate) fn manifests() -> Result<()> {
    packages(MANIFESTS)
}

/// Installs what only the Debian package needs.
pub(crate) fn package() -> Result<()> {
    packages(PACKAGE)?;
    if output(crate::process::cargo().args(["deb", "--version"])).is_ok_and(|found| found == CARGO_DEB) {
        return Ok(());
    }
    eprintln!("setup: installing cargo-deb {CARGO_DEB}: makes the Debian package (a minute)");
    check(crate::process::cargo().args(["install", &format!("cargo-deb@{CARGO_DEB}"), "--locked"]))
}

/// Installs what only fuzzing needs.
pub(crate) fn fuzz() -> Result<()> {
    if output(crate::process::cargo().args(["fuzz", "--version"])).is_ok_and(|found| found.ends_with(CARGO_FUZZ)) {
        return Ok(());
    }
    eprintln!("setup: installing cargo-fuzz {CARGO_FUZZ}: runs fuzzers (a minute)");
    check(crate::process::cargo().args(["install", &format!("cargo-fuzz@{CARGO_FUZZ}"), "--locked"]))
}

/// Installs what only virtual machines need.
pub(crate) fn vm() -> Result<()> {
    packages(VM)
}

fn packages(wanted: &[Package]) -> Result<()> {
    if !in_path("dpkg-query") {
        let names: Vec<_> = wanted.iter().map(|package| package.name).collect();
        eprintln!("setup: not a Debian machine; please see that you have: {}", names.join(", "));
        return Ok(());
    }
    let missing: Vec<_> = wanted.iter().filter(|package| !installed(package.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        eprintln!("setup: installing {}: {}", package.name, package.reason);
    }
    check(as_root("apt-get").args(["update", "-qq"]))?;
    // RUNLEVEL=1: packages of servers must not start them.
    check(
        as_root("env")
            .args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "install", "-y", "-q"])
            .arg("--no-install-recommends")
            .args(missing.iter().map(|package| package.name)),
    )
}

fn installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// The sources of `core`, which the eBPF crate is built with (`-Z build-std=core`).
fn rust_src() -> Result<()> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = PathBuf::from(output(Command::new(&rustc).args(["--print", "sysroot"]))?);
    let library = sysroot.join("lib/rustlib/src/rust/library");
    if library.join("core/Cargo.toml").is_file() {
        return Ok(());
    }
    eprintln!("setup: installing rust-src: the eBPF programs are built with their own `core`");
    if in_path("rustup") && check(Command::new("rustup").args(["component", "add", "rust-src"])).is_ok() {
        return Ok(());
    }
    let version = output(Command::new(&rustc).arg("--version"))?;
    ensure!(
        version.starts_with("rustc 1.95.0"),
        "rustup can't fetch rust-src, and Debian has it for rustc 1.95.0 only; this is {version}"
    );
    eprintln!("setup: rustup can't fetch it; taking Debian's package of the same sources");
    let sources = rust_src_from_debian()?;
    let parent = library.parent().expect("library/ has a parent");
    let mut make = if writable(&sysroot) { Command::new("mkdir") } else { as_root("mkdir") };
    check(make.arg("-p").arg(parent))?;
    let mut copy = if writable(&sysroot) { Command::new("cp") } else { as_root("cp") };
    check(copy.arg("-rT").arg(sources).arg(&library))
}

fn rust_src_from_debian() -> Result<PathBuf> {
    let folder = target_dir().join("xtask/rust-src");
    let tree = folder.join("tree");
    Apt::open(&folder, &[RUST_SRC_SUITE])?.unpack(&[RUST_SRC_DEB.to_owned()], &tree)?;
    Ok(tree.join("usr/src/rustc-1.95.0/library"))
}

fn bpf_linker() -> Result<()> {
    let found = output(Command::new("bpf-linker").arg("--version")).unwrap_or_default();
    if found.ends_with(BPF_LINKER) {
        return Ok(());
    }
    if !found.is_empty() {
        eprintln!("setup: found {found}, which was built for another LLVM than rustc's");
    }
    eprintln!("setup: installing bpf-linker {BPF_LINKER}: links the eBPF programs (some minutes)");
    let package = format!("bpf-linker@{BPF_LINKER}");
    check(crate::process::cargo().args(["install", &package, "--locked"]))
}

fn writable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok()
}
