//! `ssa-agent cleanup`: shows what agents have left attached, and takes it away.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};

use crate::{kernel::Pins, sys::on_behalf};

/// Show what agents have left attached, and take it away
///
/// An agent that ends while something depends on its guards leaves them attached: they refuse what was TLS until the
/// next run. This lists the guards of all agents, of this version and others, running or gone. With --take-away it
/// removes those of agents that have ended and on which nothing depends; with --plaintext also those on which rules or
/// open TLS sockets depend, which are PLAINTEXT from then on. No agent is needed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only those of the agent of this name, as it is listed
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Take away those on which nothing depends
    #[arg(long)]
    take_away: bool,
    /// Take away also those on which something depends: what was TLS is PLAINTEXT then
    #[arg(long)]
    plaintext: bool,
    /// Folder that maps and programs are pinned in
    #[arg(long, value_name = "PATH", default_value = super::args::BPFFS)]
    bpffs: PathBuf,
}

/// Runs `ssa-agent cleanup`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    readable(&args.bpffs)?;
    let all = Pins::all(&args.bpffs);
    let wanted: Vec<Pins> =
        all.into_iter().filter(|pins| args.name.as_ref().is_none_or(|name| pins.name == *name)).collect();
    ensure!(args.name.is_none() || !wanted.is_empty(), "no agent of this name has left anything");
    if wanted.is_empty() {
        println!("Nothing is left attached.");
    }
    let mut stay = false;
    for pins in wanted {
        // No agent begins in between.
        let locked = pins.lock();
        let left = Left::of(&pins, locked.is_none());
        print!("{}", left.describe(&pins));
        if !args.take_away && !args.plaintext {
            continue;
        }
        if left.in_use {
            println!("  stays: end the agent first (`ssa-agent run` ends with SIGTERM)");
            stay = true;
        } else if left.depends() && !args.plaintext {
            println!("  stays: something depends on it. --plaintext takes it away all the same");
            stay = true;
        } else {
            pins.remove().with_context(|| format!("removing {}", pins.path.display()))?;
            if left.depends() {
                println!("  taken away: {} services are PLAINTEXT where rules made them TLS", left.services.len());
            } else {
                println!("  taken away");
            }
        }
    }
    Ok(if stay { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Fails if the pins can't be read by this user.
pub(super) fn readable(bpffs: &Path) -> Result<()> {
    match std::fs::read_dir(bpffs.join("ssa")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}/ssa can't be read (root may)", bpffs.display()))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Presence of a cgroup, by its inode; true if the kernel does not say (open_by_handle_at(2): `ESTALE` for one that is
/// gone).
fn is_there(id: u64) -> bool {
    !on_behalf::cgroup_path(id).is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE))
}

/// Pins of an agent, as they are.
struct Left {
    in_use: bool,
    open: u64,
    /// Paths of the served cgroups; those that are gone are left out.
    services: Vec<PathBuf>,
    /// Mark of pins with a rule for one of the services, or for one that may begin; true if that can't be known.
    ruled: bool,
}

impl Left {
    fn of(pins: &Pins, in_use: bool) -> Self {
        let cgroups = pins.cgroups();
        let own = cgroups.iter().filter(|(id, decision)| decision.service == *id).map(|(id, _decision)| *id);
        let ids = own.chain(pins.attached_one_by_one());
        let services = ids.filter_map(|id| on_behalf::cgroup_path(id).ok()).collect();
        let undecided = pins.cgroup(ssa_common::cgroup::UNDECIDED);
        let begins =
            cgroups.iter().any(|(_id, one)| one.service == 0 && one.flags & ssa_common::cgroup::BELOW_ALIKE == 0);
        let ruled = if pins.is_own_version() {
            cgroups.iter().any(|(id, one)| one.rules != 0 && is_there(*id))
                || (begins && undecided.is_some_and(|all| all.rules != 0))
        } else {
            pins.guards() != 0
        };
        Self { in_use, open: pins.open_sockets(), services, ruled }
    }

    fn depends(&self) -> bool {
        self.ruled || self.open != 0
    }

    fn describe(&self, pins: &Pins) -> String {
        let state = if self.in_use { "its agent runs" } else { "its agent has ended: what was TLS is refused" };
        let version = if pins.is_own_version() { String::new() } else { format!(", of version {}", pins.abi) };
        let mut text = format!(
            "{}{version}: {} guards; {state}\n  {} TLS sockets open by options; {}\n",
            pins.name,
            pins.guards(),
            self.open,
            if self.ruled { "rules make traffic TLS" } else { "no rule makes traffic TLS" },
        );
        for service in &self.services {
            text += &format!("  serves {}\n", service.display());
        }
        text
    }
}
