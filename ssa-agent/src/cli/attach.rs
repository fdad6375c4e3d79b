//! `ssa-agent attach`, `detach` and `list`: the cgroups that a running agent serves.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    control::{
        client::ask,
        protocol::{Answer, Command},
    },
    policy::{Pods, Selector},
    services::{ServiceInfo, uncaptured::Why},
    sys::cgroup,
};

/// Let a running agent serve one more cgroup
///
/// Applications in it, and below it, have TLS sockets from now on; sockets that they have made before do not
/// (`ssa-agent list --uncaptured`). It stays attached until `ssa-agent detach`; an agent of the same name that is
/// started later takes it up again. For services that begin later, name them in
/// the configuration.
#[derive(clap::Args)]
pub(crate) struct AttachArgs {
    #[command(flatten)]
    which: Which,
    /// Wait until an agent runs and serves it, for 90 s at most; that it is attached already is no error. For the
    /// `ExecStartPre=+` of a service
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    agent: super::args::AgentArgs,
}

/// Cgroups that a command is about.
#[derive(clap::Args)]
#[group(multiple = false)]
struct Which {
    /// The cgroup, as a path of the file system or below the cgroup2 mount; with wildcards (`*` is for a part of one
    /// name), all that are there
    cgroup: Option<PathBuf>,
    /// A systemd unit or slice that runs, such as nginx.service or app@*.service
    #[arg(long)]
    unit: Option<String>,
    /// A container that runs: its id, the first 12 or more digits of it, or its name (docker, podman of root)
    #[arg(long, value_name = "ID|NAME")]
    container: Option<String>,
}

impl Which {
    fn is_given(&self) -> bool {
        self.cgroup.is_some() || self.unit.is_some() || self.container.is_some()
    }

    /// Paths of the cgroups that are meant, among those that are there.
    fn among(&self, there: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
        let mount = cgroup::mount()?;
        let below = |path: &Path| Path::new("/").join(path.strip_prefix(&mount).unwrap_or(path));
        let pattern = self.cgroup.as_ref().map(|path| below(path).to_string_lossy().into_owned());
        let selector =
            Selector::named(pattern, self.unit.clone(), self.container.clone()).map_err(anyhow::Error::msg)?;
        let none = Pods::default();
        let taken: Vec<_> = there.into_iter().filter(|path| selector.selects(&below(path), &none)).collect();
        ensure!(!taken.is_empty(), "there is no such cgroup");
        Ok(taken)
    }

    /// Path of the cgroup, if it is one without wildcards.
    fn path(&self) -> Option<&Path> {
        self.cgroup.as_deref().filter(|path| !path.to_string_lossy().contains(['*', '?', '[']))
    }
}

/// Let a running agent serve a cgroup no longer
///
/// Its connections are reset, and its TLS sockets refused from then on. If rules make traffic of its applications TLS,
/// it is left closed: they are refused that traffic, until `ssa-agent attach` opens it again or --plaintext lets it
/// pass as it is. A cgroup that the configuration names is not attached again either, until `ssa-agent attach` or the
/// agent's next start; but one that takes its place is, when the service begins again.
#[derive(clap::Args)]
pub(crate) struct DetachArgs {
    #[command(flatten)]
    which: Which,
    /// All that are attached, one after the other
    #[arg(long, conflicts_with = "Which")]
    all: bool,
    /// Let pass as PLAINTEXT what rules made TLS
    #[arg(long)]
    plaintext: bool,
    #[command(flatten)]
    agent: super::args::AgentArgs,
}

/// List the cgroups that a running agent serves
#[derive(clap::Args)]
pub(crate) struct ListArgs {
    /// Print JSON instead
    #[arg(long)]
    json: bool,
    /// List the TCP sockets of their applications that can't speak TLS instead: those that were made before the service
    /// was attached, or in another cgroup
    #[arg(long)]
    uncaptured: bool,
    #[command(flatten)]
    agent: super::args::AgentArgs,
}

/// Runs `ssa-agent attach`.
pub(crate) fn attach(args: &AttachArgs) -> Result<ExitCode> {
    const LIMIT: Duration = Duration::from_secs(90);
    const PERIOD: Duration = Duration::from_millis(100);
    ensure!(args.which.is_given(), "say which: a cgroup, --unit or --container");
    let deadline = Instant::now() + LIMIT;
    loop {
        match attach_now(args) {
            Ok(()) => return Ok(ExitCode::SUCCESS),
            Err(_not_yet) if args.wait && Instant::now() < deadline => sleep(PERIOD),
            Err(error) => return Err(error),
        }
    }
}

fn attach_now(args: &AttachArgs) -> Result<()> {
    let cgroups = match args.which.path() {
        Some(path) => vec![existing(path)?],
        None => {
            let all = cgroup::all_below(&cgroup::mount()?, |_path| ());
            args.which.among(all.into_iter().map(|(_id, path)| path).collect())?
        }
    };
    let name = args.agent.name()?;
    let served: Vec<PathBuf> = if args.wait {
        listed(&name)?.into_iter().filter(|service| !service.closed).map(|service| service.cgroup).collect()
    } else {
        Vec::new()
    };
    for cgroup in cgroups.into_iter().filter(|cgroup| !served.iter().any(|path| cgroup.starts_with(path))) {
        ask(&name, Command::Attach { cgroup })?;
    }
    Ok(())
}

/// Runs `ssa-agent detach`.
pub(crate) fn detach(args: &DetachArgs) -> Result<ExitCode> {
    let name = args.agent.name()?;
    let attached = || Ok::<_, anyhow::Error>(listed(&name)?.into_iter().map(|service| service.cgroup).collect());
    ensure!(args.all || args.which.is_given(), "say which: a cgroup, --unit, --container or --all");
    let cgroups = match args.which.path() {
        _ if args.all => attached()?,
        Some(path) => vec![cgroup::resolve(path)?],
        None => args.which.among(attached()?)?,
    };
    for cgroup in cgroups {
        let command = Command::Detach { cgroup: cgroup.clone(), plaintext: args.plaintext };
        if matches!(ask(&name, command)?, Answer::LeftClosed) {
            eprintln!(
                "{} is left closed: what its rules make TLS is refused; `ssa-agent detach --plaintext` lets it pass",
                cgroup.display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `ssa-agent list`.
pub(crate) fn list(args: &ListArgs) -> Result<ExitCode> {
    let name = args.agent.name()?;
    if args.uncaptured {
        return uncaptured(&name, args.json);
    }
    let services = listed(&name)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&services)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:>8}  CGROUP", "SOCKETS");
    for service in services {
        let removed = if service.removed { " (removed)" } else { "" };
        let closed = if service.closed { " (closed)" } else { "" };
        println!("{:>8}  {}{removed}{closed}", service.sockets, service.cgroup.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn uncaptured(agent: &str, json: bool) -> Result<ExitCode> {
    let Answer::Uncaptured(sockets) = ask(agent, Command::Uncaptured)? else {
        bail!("the agent speaks of something else");
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&sockets)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:>7}  {:<9}  {:<40} {:<40} SERVICE", "PID", "MADE", "LOCAL", "PEER");
    for one in sockets {
        let made = match one.why {
            Why::Before => "before",
            Why::Elsewhere => "elsewhere",
        };
        let peer =
            one.peer.map_or_else(|| if one.listens { "listens" } else { "" }.to_owned(), |peer| peer.to_string());
        println!("{:>7}  {made:<9}  {:<40} {peer:<40} {}", one.pid, one.local.to_string(), one.service);
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(agent: &str) -> Result<Vec<ServiceInfo>> {
    let Answer::Services(services) = ask(agent, Command::List)? else {
        bail!("the agent speaks of something else");
    };
    Ok(services)
}

fn existing(path: &Path) -> Result<PathBuf> {
    let path = cgroup::resolve(path)?;
    path.canonicalize().with_context(|| format!("there is no cgroup {}", path.display()))
}
