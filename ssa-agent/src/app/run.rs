//! Running agent, from its start to its end.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use ssa_common::{event::Held, limits::Counter};
use tokio::{io::unix::AsyncFd, sync::mpsc, task::JoinHandle};
use tracing::{error, info, warn};
use zerocopy::FromBytes as _;

use super::{
    admin::Admin,
    events::{Duties, End, EventLoop, offer_ids},
    reconcile::Reconciler,
    shutdown::end_sockets,
    tasks::{ActiveTasks, Background},
    upgrade::{
        predecessor::Predecessor,
        protocol::TransferredState,
        successor::{Successor, Transfer},
    },
    wiring::{Parts, wire},
};
use crate::{
    connection::ConnectionTable,
    drain::{Lifecycle, Phase},
    enforce::Enforcement,
    inbound,
    kernel::{Events, Hooks, LoadedHooks, SocketMaps},
    outbound::Attempts,
    policy::Config,
    services::Services,
    sys::{async_fd::async_fd, on_behalf},
    telemetry::{self, Snapshot},
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
    /// Whether the guards are left attached at the end.
    pub(crate) leave_guards: bool,
    /// Whether it takes the place of an agent of the same name, if there is one.
    pub(crate) take_over: bool,
}

/// Most clients that were accepted for a listener and are not looked at yet; one more is reset.
const CLIENTS_WAITING: usize = 1024;

/// Attaches, serves for as long as `attended` takes, then ends what is open and detaches.
///
/// Errors: of the start, of `attended`, and of serving. Cancellation leaves the guards attached, and closed.
pub(crate) async fn run(options: RunOptions, attended: impl AsyncFnOnce() -> Result<()>) -> Result<End> {
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
    let parts = wire(hooks, maps, &options.cgroups, &file, state, clients)?;
    let ending = Ending {
        lifecycle: Arc::clone(&parts.lifecycle),
        services: Arc::clone(&parts.services),
        sockets: Arc::clone(&parts.sockets),
        table: parts.table.clone(),
        leave_guards: options.leave_guards,
    };
    tokio::spawn(inbound::serve(Arc::clone(&parts.inbound), accepted));
    let service_manager = tokio::spawn(telemetry::follow(parts.lifecycle.drain(), Arc::clone(&parts.health)));
    let finish = file.finish_limit();
    let mut serving = serve(parts, &options, predecessor, (candidates, ready), finish).await?;
    let attended = tokio::select! {
        attended = attended() => attended,
        // Without it every connect would wait for nothing: close, and say so.
        served = &mut serving => return match served?? {
            End::HandedOver => Ok(End::HandedOver),
            End::Detached => Err(anyhow!("the agent has stopped serving")),
        },
    };
    ending.end(serving, service_manager, attended).await
}

/// Begins to serve: from here on sockets connect. Returns the task that reads the events.
async fn serve(
    parts: Parts,
    options: &RunOptions,
    predecessor: Option<Predecessor>,
    (candidates, ready): (mpsc::Sender<Successor>, mpsc::Receiver<Successor>),
    finish: std::time::Duration,
) -> Result<JoinHandle<Result<End>>> {
    let Parts {
        lifecycle,
        answers,
        enforcement,
        health,
        inbound,
        metrics,
        namespaces,
        options: application_options,
        outbound,
        pods,
        services,
        sockets,
        table,
        held,
    } = parts;
    offer_ids(&sockets)?;
    inbound.listen_all();
    let admin = Arc::new(Admin {
        services: Arc::clone(&services),
        enforcement: Arc::clone(&enforcement),
        inbound: Arc::clone(&inbound),
        table: table.clone(),
        sockets: Arc::clone(&sockets),
        metrics: Arc::clone(&metrics),
        lifecycle: Arc::clone(&lifecycle),
        config: options.config.clone(),
        candidates,
        began: Instant::now(),
    });
    let reconciler = Arc::new(Reconciler {
        services: Arc::clone(&services),
        enforcement: Arc::clone(&enforcement),
        pods: Arc::clone(&pods),
        metrics: Arc::clone(&metrics),
    });
    let background = Background {
        name: options.name.clone(),
        admin,
        reconciler,
        health: Arc::clone(&health),
        metrics,
        snapshot: snapshot(&services, &enforcement, &sockets, &table),
        drain: lifecycle.drain(),
    };
    let tasks = ActiveTasks::begin(&background).await?;
    services.open().await?;
    let predecessor = match predecessor {
        Some(predecessor) => {
            inbound.settled().await;
            Some(predecessor.serving().await?)
        }
        None => None,
    };
    lifecycle.serve();
    let transfer = Transfer {
        services,
        options: Arc::clone(&application_options),
        enforcement: Arc::clone(&enforcement),
        pods,
        answers: answers.clone(),
    };
    let events = Events::new(sockets.events()?)?;
    let event_loop = EventLoop {
        attempts: Attempts::new(outbound),
        inbound,
        options: application_options,
        enforcement,
        namespaces,
        answers,
        table,
        sockets,
        health,
        predecessor,
        drain: lifecycle.drain(),
    };
    let held = held.iter().filter_map(|held| Held::read_from_bytes(held).ok()).collect();
    let duties = Duties { lifecycle, tasks, background, candidates: ready, transfer, finish };
    Ok(tokio::spawn(event_loop.run(events, held, duties)))
}

/// Makes the function that reads the values which metrics need of the running agent.
fn snapshot(
    services: &Arc<Services>,
    enforcement: &Arc<Enforcement>,
    sockets: &Arc<SocketMaps>,
    table: &ConnectionTable,
) -> Arc<dyn Fn() -> Snapshot + Send + Sync> {
    let (services, enforcement) = (Arc::clone(services), Arc::clone(enforcement));
    let (sockets, table) = (Arc::clone(sockets), table.clone());
    let gauges = HashSet::from([Counter::Sockets as u32, Counter::Opened as u32]);
    Arc::new(move || Snapshot {
        connections: table.counts(),
        services: services
            .infos()
            .into_iter()
            .map(|info| (info.cgroup.to_string_lossy().into_owned(), info.sockets))
            .collect(),
        hooks: Counter::ALL
            .into_iter()
            .filter(|(counter, _name)| !gauges.contains(&(*counter as u32)))
            .map(|(counter, name)| (name, sockets.counter(counter)))
            .collect(),
        generation: enforcement.policies.generation(),
    })
}

/// Parts that the end of an agent needs.
struct Ending {
    lifecycle: Arc<Lifecycle>,
    services: Arc<Services>,
    sockets: Arc<SocketMaps>,
    table: ConnectionTable,
    /// Whether the guards are left attached.
    leave_guards: bool,
}

impl Ending {
    /// Refuses connects that are held, resets connections, and detaches; or waits for an end that another agent has
    /// begun.
    async fn end(
        self,
        serving: JoinHandle<Result<End>>,
        service_manager: JoinHandle<()>,
        attended: Result<()>,
    ) -> Result<End> {
        let change = self.lifecycle.change().await;
        if self.lifecycle.phase() == Phase::Finishing {
            drop(change);
            let connections = self.table.count();
            warn!(connections, "another agent serves; finishing connections. A second signal ends them");
            return serving.await?;
        }
        let Some(mut hooks) = self.services.take_hooks().await else { bail!("the hooks were taken before") };
        hooks.close();
        self.lifecycle.stop();
        // So that the service manager hears of it before the process is gone.
        service_manager.await?;
        drop(change);
        serving.await??;
        let attached = self.services.attached().paths();
        if self.leave_guards {
            if attached.is_empty() {
                hooks.unload()?;
            } else {
                info!("the guards stay attached, and refuse every TLS socket until the next run");
            }
            return attended.map(|()| End::Detached);
        }
        end_sockets(&self.sockets).await;
        // From here on no plain socket can become a TLS socket; one may have, since they were counted.
        attached.keys().try_for_each(|id| hooks.detach_options(*id))?;
        end_sockets(&self.sockets).await;
        attached.keys().try_for_each(|id| hooks.detach(*id))?;
        hooks.unload()?;
        info!("detached");
        attended.map(|()| End::Detached)
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
