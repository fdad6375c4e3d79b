//! Running agent, from its start to its end.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, anyhow, bail};
use ssa_common::{event::Held, limits::Counter};
use tokio::{io::unix::AsyncFd, sync::mpsc, task::JoinHandle};
use tracing::{error, info, warn};
use zerocopy::FromBytes as _;

use super::{
    events::{Duties, End, offer_ids},
    shutdown::end_sockets,
    tasks::ActiveTasks,
    upgrade::{predecessor::Predecessor, protocol::TransferredState},
    wiring::{SharedHooks, Wired, wire},
};
use crate::{
    connection::ConnectionTable,
    drain::{Lifecycle, Phase},
    enforce::Enforcement,
    inbound::serve as serve_clients,
    kernel::{Events, Hooks, LoadedHooks, SocketMaps},
    policy::Config,
    services::Services,
    sys::{async_fd::async_fd, on_behalf},
    telemetry::follow,
};

/// Options that an agent is started with.
#[derive(Clone, Debug)]
pub(crate) struct RunOptions {
    /// Name that tells agents of one machine apart: their pins and control sockets have it.
    pub(crate) name: String,
    /// Cgroups to be attached at once.
    pub(crate) cgroups: Vec<PathBuf>,
    /// Mount point of the bpffs in which maps and programs are pinned.
    pub(crate) bpffs: PathBuf,
    /// Source of the configuration.
    pub(crate) config: Config,
    /// Paths of the cgroups that were made for this run: they are removed at its end, if nobody is in them.
    pub(crate) made: Vec<PathBuf>,
    /// `--leave-guards`: the guards stay attached at the end, whether something depends on them or not.
    pub(crate) leave_guards: bool,
    /// `--plaintext`: the guards are detached at the end, although something depends on them.
    pub(crate) plaintext: bool,
    /// `--take-over`: the agent takes the place of one of the same name, if there is one.
    pub(crate) take_over: bool,
}

/// Most clients that were accepted for a listener and are not looked at yet; one more is reset.
const CLIENTS_WAITING: usize = 1024;

/// Attaches, serves for as long as `attended` takes, then ends what is open. The guards stay where something depends on
/// them.
///
/// Errors: of the start, of `attended`, and of serving. Cancellation leaves the guards attached, and closed.
pub(crate) async fn run(options: RunOptions, attended: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    on_behalf::prepare().context("sockets to hand sockets over")?;
    let file = Arc::new(options.config.read()?);
    let mut predecessor = if options.take_over { Predecessor::ask(&options.name).await? } else { None };
    let LoadedHooks { mut hooks, maps, logger } = Hooks::load(&options.name, &options.bpffs, predecessor.is_some())?;
    if let Some(logger) = logger {
        tokio::spawn(log_hooks(async_fd(logger)?));
    }
    let state = match &mut predecessor {
        None => TransferredState::default(),
        Some(predecessor) => {
            let state = predecessor.request_state().await?;
            hooks.lock_again().await?;
            // No connect may find the guards closed.
            hooks.open()?;
            state
        }
    };
    let (clients, accepted) = mpsc::channel(CLIENTS_WAITING);
    let (candidates, ready) = mpsc::channel(1);
    let wired = wire(&options, &file, (hooks, maps), state, clients, candidates)?;
    let Wired { lifecycle, services, hooks, mut event_loop, background, transfer, held } = wired;
    let (inbound, sockets) = (Arc::clone(&event_loop.inbound), Arc::clone(&event_loop.sockets));
    let ending = Ending {
        lifecycle: Arc::clone(&lifecycle),
        services: Arc::clone(&services),
        sockets: Arc::clone(&sockets),
        table: event_loop.table.clone(),
        enforcement: Arc::clone(&event_loop.enforcement),
        hooks: Arc::clone(&hooks),
        leave_guards: options.leave_guards,
        plaintext: options.plaintext,
        made: options.made.clone(),
    };
    offer_ids(&sockets)?;
    tokio::spawn(serve_clients(Arc::clone(&inbound), accepted));
    inbound.listen_all();
    let tasks = ActiveTasks::begin(&background).await?;
    hooks.lock().await.as_mut().context("the agent ends")?.open()?;
    if let Some(predecessor) = predecessor {
        inbound.settled().await;
        event_loop.predecessor = Some(predecessor.serving().await?);
    }
    lifecycle.serve();
    let service_manager = tokio::spawn(follow(lifecycle.drain(), Arc::clone(&background.health)));
    let held = held.iter().filter_map(|held| Held::read_from_bytes(held).ok()).collect();
    let duties = Duties { lifecycle, tasks, background, candidates: ready, transfer, finish: file.finish_limit() };
    let mut serving = tokio::spawn(event_loop.run(Events::new(sockets.events()?)?, held, duties));
    let attended = tokio::select! {
        attended = attended() => attended,
        // Without it every connect would wait for nothing: close, and say so.
        served = &mut serving => return match served?? {
            End::HandedOver => Ok(()),
            End::Stopped => Err(anyhow!("the agent has stopped serving")),
        },
    };
    ending.end(serving, service_manager, attended).await
}

/// Parts that the end of an agent needs.
struct Ending {
    lifecycle: Arc<Lifecycle>,
    services: Arc<Services>,
    sockets: Arc<SocketMaps>,
    table: ConnectionTable,
    enforcement: Arc<Enforcement>,
    hooks: SharedHooks,
    /// `--leave-guards`, as [`RunOptions`] has it.
    leave_guards: bool,
    /// `--plaintext`, as [`RunOptions`] has it.
    plaintext: bool,
    /// Cgroups that were made, as [`RunOptions`] has it.
    made: Vec<PathBuf>,
}

impl Ending {
    /// Refuses connects that are held, resets connections, and detaches if nothing depends on the guards; or waits for an end that another agent has
    /// begun.
    async fn end(
        self,
        serving: JoinHandle<Result<End>>,
        service_manager: JoinHandle<()>,
        attended: Result<()>,
    ) -> Result<()> {
        let change = self.lifecycle.change().await;
        if self.lifecycle.phase() == Phase::Finishing {
            drop(change);
            let connections = self.table.count();
            warn!(connections, "another agent serves; finishing connections. A second signal ends them");
            return serving.await?.map(|_end| ());
        }
        let Some(mut hooks) = self.hooks.lock().await.take() else { bail!("the hooks were taken before") };
        hooks.close();
        self.lifecycle.stop();
        // So that the service manager hears of it before the process is gone.
        service_manager.await?;
        drop(change);
        serving.await??;
        self.made.iter().for_each(|path| drop(fs::remove_dir(path)));
        let services = self.services.infos();
        let depend = self.enforcement.rules.depend()
            || self.sockets.counter(Counter::Sockets) != 0
            || services.iter().any(|service| service.sockets != 0);
        if !self.plaintext && (depend || (self.leave_guards && !services.is_empty())) {
            warn!(
                services = services.len(),
                "the guards stay attached, and refuse what was TLS until the next run. `ssa-agent cleanup --plaintext` \
                 takes them away"
            );
            return attended;
        }
        if depend {
            warn!(services = services.len(), "what was TLS is plaintext from now on, as --plaintext asks for");
        }
        end_sockets(&self.sockets).await;
        // From here on no plain socket can become a TLS socket; one may have, since they were counted.
        hooks.detach_options()?;
        end_sockets(&self.sockets).await;
        hooks.unload()?;
        info!("detached");
        attended
    }
}

/// Passes the hooks' own log messages on (level debug, target `ssa_hooks`).
async fn log_hooks(mut logger: AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>) {
    loop {
        match logger.readable_mut().await {
            Ok(mut ready) => {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
            Err(error) => {
                error!(%error, "reading the hooks' log failed");
                return;
            }
        }
    }
}
