//! `ssa-agent explain`: what the running agent makes of a process's sockets.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    control::{
        client::ask,
        protocol::{Answer, Command},
    },
    enforce::{Asked, Explanation},
    policy::Direction,
    services::AttachedBy,
};

/// Explain what the running agent makes of a process's sockets
///
/// Says which service the process belongs to, and since when, or that it is NOT SERVED and why; the policy that is in
/// force for it; and with --to or --listen what becomes of a socket that sets no options of TLS, by which rule of which
/// file and line. Changes nothing. Exits with 1 if the process is not served.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The process, by its id on this machine
    pid: u32,
    /// A destination of its connections. A name is resolved here, as this machine does it
    #[arg(long, value_name = "ADDRESS|NAME:PORT", conflicts_with = "listen")]
    to: Option<String>,
    /// An address at which it listens
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// With --to: by UDP, not TCP
    #[arg(long, requires = "to")]
    udp: bool,
    /// Print JSON instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: super::args::AgentArgs,
}

/// Runs `ssa-agent explain`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (direction, at) = match (&args.to, args.listen) {
        (Some(to), _) => (Direction::Out, addresses(to)?),
        (None, Some(at)) => (Direction::In, vec![at]),
        (None, None) => (Direction::Out, Vec::new()),
    };
    let asked = Asked { pid: args.pid, direction, udp: args.udp, at };
    let Answer::Explanation(explanation) = ask(&args.agent.name()?, Command::Explain(asked))? else {
        bail!("the agent speaks of something else");
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print!("{}", text(args.pid, &explanation));
    }
    Ok(if explanation.service.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Addresses of a destination as given.
fn addresses(to: &str) -> Result<Vec<SocketAddr>> {
    let all: Vec<SocketAddr> = to
        .to_socket_addrs()
        .with_context(|| format!("{to:?} is neither ADDRESS:PORT nor NAME:PORT, or the name can't be resolved here"))?
        .collect();
    Ok(all)
}

fn text(pid: u32, explained: &Explanation) -> String {
    let executable = explained.executable.as_ref().map_or("?".to_owned(), |path| path.display().to_string());
    let (uid, cgroup) = (explained.uid, explained.cgroup.display());
    let mut text = format!("# process {pid}: {executable}, user {uid}, cgroup {cgroup}\n");
    match &explained.service {
        Some(service) => {
            let by = match service.by {
                AttachedBy::Name => "by name",
                AttachedBy::Selector => "by a selector of the configuration",
            };
            let since = SystemTime::UNIX_EPOCH + Duration::from_secs(service.since);
            let ago = since.elapsed().unwrap_or_default().as_secs();
            let closed = if service.closed { "; detached since, and CLOSED" } else { "" };
            text += &format!("# service {}, attached {by} {ago} s ago{closed}\n", service.cgroup.display());
        }
        None => text += &format!("# NOT SERVED: {}\n", explained.not_served),
    }
    for socket in &explained.sockets {
        let rule = match (&socket.rule, &socket.place) {
            (Some(rule), Some(place)) => format!("rule {rule} ({place}): "),
            (Some(_) | None, Some(_) | None) => String::new(),
        };
        text += &format!("# {}: {rule}{}\n", socket.at, socket.outcome);
        if !socket.resolved.is_empty() {
            text += &format!("#   its applications have resolved {} to it\n", socket.resolved.join(", "));
        }
    }
    text + "\n" + &explained.policy
}
