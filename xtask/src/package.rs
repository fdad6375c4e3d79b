//! `cargo xtask package`: the Debian package, and a trial of it in a clean Debian.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    apt,
    process::{as_root, cargo, check, output, root, target_dir},
    setup, vm,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also install, use, upgrade and purge it: in a clean Debian 12 with systemd, in a virtual machine
    #[arg(long = "try")]
    trial: bool,
}

/// Packages of the clean Debian besides its minimum: the trial itself needs them.
const INCLUDE: &str =
    "systemd,ca-certificates,openssl,python3-minimal,libpython3-stdlib,iproute2,procps,bpftool,bash-completion,dbus";
/// The kernel of the trial.
const KERNEL: &str = "6.12";
/// Longest time that the trial may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { tests: false })?;
    setup::package()?;
    check(cargo().args(["build", "--locked", "--release", "--package", "ssa-agent"]))?;
    let package = build("1")?;
    println!("{}", package.display());
    if args.trial { try_out(&package) } else { Ok(()) }
}

/// Makes the package with this revision.
fn build(revision: &str) -> Result<PathBuf> {
    let folder = root().join("target/package");
    let agent = target_dir().join("release/ssa-agent");
    // Pages of commands that are no more.
    let _absent = fs::remove_dir_all(folder.join("man"));
    check(Command::new(&agent).arg("manual").arg(folder.join("man")))?;
    for (shell, file) in [("bash", "ssa-agent.bash"), ("zsh", "_ssa-agent"), ("fish", "ssa-agent.fish")] {
        let text = output(Command::new(&agent).args(["completions", shell]))?;
        fs::write(folder.join(file), text + "\n")?;
    }
    let mut deb = cargo();
    deb.args(["deb", "--no-build", "--package", "ssa-agent", "--deb-revision", revision, "--output"]);
    let made = folder.join(format!("ssa-agent-{revision}.deb"));
    check(deb.arg(&made))?;
    Ok(made)
}

/// Installs, uses, upgrades and purges the package.
fn try_out(package: &Path) -> Result<()> {
    let newer = build("2")?;
    setup::vm()?;
    let clean = clean_debian()?;
    let inside = clean.join("trial");
    fs::create_dir_all(&inside)?;
    fs::copy(package, inside.join("old.deb"))?;
    fs::copy(newer, inside.join("new.deb"))?;
    for file in ["tests/package/trial.sh", "tests/package/program.py"] {
        let name = Path::new(file).file_name().context("it has a name")?;
        fs::copy(root().join(file), inside.join(name))?;
    }
    let mut passed = false;
    vm::systemd(KERNEL, &clean, "bash /trial/trial.sh 2>&1", LIMIT, |line| {
        println!("{line}");
        passed |= line == "trial: passed";
    })?;
    ensure!(passed, "the trial of the package has failed");
    Ok(())
}

/// A Debian 12 with systemd and nothing else, made once.
fn clean_debian() -> Result<PathBuf> {
    let folder = apt::cache("clean")?;
    let made = folder.join(format!("bookworm-{:x}", hash(INCLUDE)));
    if made.is_dir() {
        return Ok(made);
    }
    fs::create_dir_all(&folder)?;
    let making = folder.join("making");
    // Of an earlier run that failed.
    check(as_root("rm").arg("-rf").arg(&making))?;
    let mut mmdebstrap = as_root("mmdebstrap");
    // How this machine's apt gets at its mirror.
    for entry in fs::read_dir("/etc/apt/apt.conf.d")? {
        let path = entry?.path();
        if fs::read_to_string(&path).is_ok_and(|text| text.lines().any(|line| line.starts_with("Acquire::"))) {
            mmdebstrap.arg(format!("--aptopt={}", path.display()));
        }
    }
    mmdebstrap.args(["--quiet", "--variant=minbase", &format!("--include={INCLUDE}"), "bookworm"]);
    check(mmdebstrap.arg(&making).arg(apt::mirror()?))?;
    check(as_root("mv").arg(&making).arg(&made))?;
    Ok(made)
}

/// A short name for what is in it.
fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
