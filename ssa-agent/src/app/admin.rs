//! Commands of an administrator to the running agent.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use ssa_common::limits::Counter;
use tokio::{net::UnixStream, sync::mpsc};
use tracing::{error, warn};

use super::upgrade::successor::{self, Successor};
use crate::{
    connection::ConnectionTable,
    control::{
        protocol::{Answer, Command, Status},
        server::Handler,
    },
    drain::{Lifecycle, Phase},
    enforce::Enforcement,
    inbound::Inbound,
    kernel::SocketMaps,
    policy::Config,
    services::Services,
    telemetry::Metrics,
};

/// Handler of the control socket's commands, with the parts that they need.
pub(crate) struct Admin {
    /// Attached cgroups.
    pub(crate) services: Arc<Services>,
    /// Configuration in force.
    pub(crate) enforcement: Arc<Enforcement>,
    /// Listeners, which a reload may change.
    pub(crate) inbound: Arc<Inbound>,
    /// Open connections and failures.
    pub(crate) table: ConnectionTable,
    /// Maps of the hooks with their counters.
    pub(crate) sockets: Arc<SocketMaps>,
    /// Metrics, which count reloads that failed.
    pub(crate) metrics: Arc<Metrics>,
    /// Phase of the process, which this may change.
    pub(crate) lifecycle: Arc<Lifecycle>,
    /// Source of the configuration, read at each reload.
    pub(crate) config: Config,
    /// Queue to the task that reads the events: agents that are ready to take this one's place.
    pub(crate) candidates: mpsc::Sender<Successor>,
    /// Time at which the agent began.
    pub(crate) began: Instant,
}

impl Handler for Admin {
    async fn handle(&self, command: Command) -> Answer {
        match command {
            Command::Reload => self.reload().await,
            Command::Attach { cgroup } => done(self.attach(cgroup).await),
            Command::Detach { cgroup, plaintext } => {
                self.detach(cgroup, plaintext).await.unwrap_or_else(|error| Answer::Error(format!("{error:#}")))
            }
            Command::Explain(asked) => {
                let enforcement = Arc::clone(&self.enforcement);
                match tokio::task::spawn_blocking(move || enforcement.explain(&asked)).await {
                    Ok(Ok(explanation)) => Answer::Explanation(Box::new(explanation)),
                    Ok(Err(error)) => Answer::Error(format!("{error:#}")),
                    Err(error) => Answer::Error(error.to_string()),
                }
            }
            Command::List => Answer::Services(self.services.infos()),
            Command::Uncaptured => {
                let services = Arc::clone(&self.services);
                let found = tokio::task::spawn_blocking(move || services.uncaptured()).await;
                found.map_or_else(|error| Answer::Error(error.to_string()), Answer::Uncaptured)
            }
            Command::Connections => Answer::Connections(self.table.infos()),
            Command::Failures => Answer::Failures(self.table.failures()),
            Command::Status => Answer::Status(Box::new(self.status())),
            Command::Upgrade => self.upgrade().await.unwrap_or_else(|error| Answer::Error(format!("{error:#}"))),
            Command::HandOver { .. } => Answer::Error("only as the last command of a connection".to_owned()),
        }
    }

    async fn hand_over(&self, stream: UnixStream, abi: u32) -> Result<()> {
        successor::prepare(&self.lifecycle, &self.candidates, stream, abi).await
    }
}

impl Admin {
    async fn attach(&self, cgroup: PathBuf) -> Result<()> {
        let (services, enforcement) = (Arc::clone(&self.services), Arc::clone(&self.enforcement));
        let attached = tokio::task::spawn_blocking(move || {
            services.attach(&cgroup)?;
            enforcement.rules.refresh()?;
            enforcement.policies.cgroup_attached();
            Ok(())
        });
        attached.await?
    }

    /// Detaches a cgroup; one for which a rule makes something TLS is left closed, unless `plaintext` is meant.
    async fn detach(&self, cgroup: PathBuf, plaintext: bool) -> Result<Answer> {
        let (services, enforcement) = (Arc::clone(&self.services), Arc::clone(&self.enforcement));
        let detached = tokio::task::spawn_blocking(move || {
            let depends = enforcement.rules.depends(&cgroup);
            services.detach(&cgroup, depends && !plaintext, true)?;
            enforcement.rules.refresh()?;
            if depends && plaintext {
                warn!(cgroup = %cgroup.display(), "what rules made TLS is plaintext from now on, by command");
            }
            Ok(if depends && !plaintext { Answer::LeftClosed } else { Answer::Done })
        });
        detached.await?
    }

    fn status(&self) -> Status {
        let counter = |(counter, name): (Counter, &str)| (name.to_owned(), self.sockets.counter(counter));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            seconds: self.began.elapsed().as_secs(),
            services: self.services.attached().count(),
            connections: self.table.count(),
            counters: Counter::ALL.into_iter().map(counter).collect(),
        }
    }

    /// Reads the configuration again, and puts it in force. If it is bad, the policy in force stays, which is logged
    /// and counted.
    pub(crate) async fn reload(&self) -> Answer {
        let _change = self.lifecycle.change().await;
        if self.lifecycle.phase() == Phase::Finishing {
            return Answer::Error("another agent serves in this one's place: ask again".to_owned());
        }
        let (enforcement, inbound) = (Arc::clone(&self.enforcement), Arc::clone(&self.inbound));
        let config = self.config.clone();
        // Files may be anywhere, and users in a directory service.
        let replaced = tokio::task::spawn_blocking(move || -> Result<u64> {
            let file = if enforcement.policies.is_from_file() { config.read_again()? } else { config.read()? };
            file.load_all()?;
            let generation = enforcement.replace(Arc::new(file))?;
            inbound.reconcile_rules();
            Ok(generation)
        });
        match replaced.await.map_err(anyhow::Error::from).flatten() {
            Ok(generation) => Answer::Reloaded { generation },
            Err(error) => {
                error!(error = format!("{error:#}"), "the configuration is bad: the policy in force stays");
                self.metrics.reload_failed();
                Answer::Error(format!("{error:#}"))
            }
        }
    }

    /// Starts this executable anew, with the same arguments, and waits until it serves. Errors: it has ended, or does
    /// not serve within 120 s; this agent goes on then.
    async fn upgrade(&self) -> Result<Answer> {
        const LIMIT: Duration = Duration::from_secs(120);
        let own = std::env::current_exe()?;
        // As the kernel calls a file that was replaced.
        let own = PathBuf::from(own.to_string_lossy().trim_end_matches(" (deleted)"));
        let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
        ensure!(!arguments.iter().any(|argument| argument == "--"), "an agent that runs a command ends with it");
        if !arguments.iter().any(|argument| argument == "--take-over") {
            arguments.push("--take-over".into());
        }
        let mut child = tokio::process::Command::new(own);
        // systemd's watchdog is for whichever process is the main one.
        let mut child = child.args(arguments).env_remove("WATCHDOG_PID").spawn()?;
        let pid = child.id().context("it has ended")?;
        let drain = self.lifecycle.drain();
        tokio::select! {
            () = drain.wait_for(|phase| phase == Phase::Finishing) => {}
            status = child.wait() => bail!("the new agent has ended ({}); the log says why", status?),
            () = tokio::time::sleep(LIMIT) => bail!("the new agent does not serve within {} s", LIMIT.as_secs()),
        }
        // It is not waited for: it will be there when this one is gone.
        tokio::spawn(async move { child.wait().await });
        Ok(Answer::Upgraded { pid, finishing: self.table.count() })
    }
}

fn done(result: Result<()>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Error(format!("{error:#}")),
    }
}
