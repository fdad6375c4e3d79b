//! Builds the eBPF objects, which the agent carries inside it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("ssa-agent/ is inside the workspace");
    for input in ["Cargo.lock", "Cargo.toml", "ssa-common", "ssa-ebpf"] {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let status = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
        .current_dir(root)
        .args(["build", "--locked", "--release", "--package", "ssa-ebpf", "--target", target])
        .args(["-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(out.join("ebpf"))
        // Stable rustc builds `core` for BPF only with this.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root).join("\x1f"))
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cargo runs");
    assert!(
        status.success(),
        "building the eBPF programs failed; `cargo xtask setup` installs what that needs (rust-src, bpf-linker)"
    );
    for object in ["ssa-hooks", "ssa-steer"] {
        let built = out.join("ebpf").join(target).join("release").join(object);
        std::fs::copy(&built, out.join(object)).unwrap_or_else(|error| panic!("copying {}: {error}", built.display()));
    }
}

/// `v3`: atomics that fetch and compare (Linux 5.12). BTF describes the maps, and wants full debug
/// information, whose paths are made the same on every machine.
fn flags(root: &Path) -> Vec<String> {
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned(), "-Ctarget-cpu=v3".to_owned()];
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    for (from, to) in [(Some(root.to_owned()), "/ssa"), (home, "/cargo")] {
        if let Some(from) = from {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        }
    }
    flags
}
