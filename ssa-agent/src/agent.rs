//! The running agent: reads the hooks' events until it is told to stop.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use sd_notify::NotifyState;
use ssa_common::limits::Counter;
use tokio::{io::unix::AsyncFd, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    chains::Chains,
    connections::Connections,
    contexts::Contexts,
    control, inbound,
    kernel::{
        events::{Event, Events},
        loader::Hooks,
        maps::Maps,
        on_behalf, sys,
    },
    listeners::Listeners,
    metrics::Metrics,
    monitor::{self, Health},
    names::Names,
    netns::Namespaces,
    pods::{self, Pods},
    policy::{Policies, file::Config},
    registry::Registry,
    rules::Rules,
    services::{self, Services},
};

/// Where the agent works, and by what policy.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Tells agents of one machine apart: their pins and control sockets.
    pub(crate) name: String,
    /// To be attached at once.
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) bpffs: PathBuf,
    pub(crate) config: Config,
    /// At the end, leave the guards attached.
    pub(crate) leave_guards: bool,
}

/// What all connections share.
pub(crate) struct Agent {
    pub(crate) maps: Arc<Maps>,
    pub(crate) chains: Chains,
    pub(crate) connections: Connections,
    pub(crate) contexts: Contexts,
    pub(crate) health: Health,
    pub(crate) listeners: Listeners,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) names: Names,
    pub(crate) namespaces: Namespaces,
    pub(crate) pods: Arc<Pods>,
    pub(crate) policies: Policies,
    pub(crate) rules: Rules,
    pub(crate) services: Arc<Services>,
    pub(crate) began: Instant,
    /// Cancelled when the agent is to end: held connects are refused, connections reset.
    pub(crate) stop: CancellationToken,
}

/// Clients that were accepted for a listener and are not looked at yet.
const CLIENTS_WAITING: usize = 1024;

/// How often ids are refilled and lost events made up for, if no event comes.
const TICK: Duration = Duration::from_millis(100);
/// How often namespaces that nobody uses are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Attaches, serves for as long as `attended` takes, then ends what is open and detaches.
pub(crate) async fn run(options: Options, attended: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    on_behalf::prepare().context("sockets to hand sockets over")?;
    let mut hooks = Hooks::load(&options.name, &options.bpffs)?;
    let maps = Arc::new(hooks.maps.take().context("the maps were taken before")?);
    if let Some(logger) = hooks.logger.take() {
        tokio::spawn(log_hooks(sys::async_fd(logger)?));
    }
    let ring = maps.take_events().context("the events were taken before")?;
    let names = Names::new(maps.take_names().context("the names were taken before")?);
    let (clients, come) = mpsc::channel(CLIENTS_WAITING);
    let stop = CancellationToken::new();
    let file = Arc::new(options.config.read()?);
    let (metrics, pods) = (Arc::new(Metrics::new()?), Arc::<Pods>::default());
    // Before anything is attached: there is no moment in which a rule does not hold.
    let rules = Rules::new(Arc::clone(&maps), Arc::clone(&pods), Arc::clone(&file))?;
    let services = Arc::new(Services::attach_all(hooks, &maps, &options.cgroups, &stop)?);
    let (monitor, group) = (file.monitor(), file.control_group());
    let agent = Arc::new(Agent {
        chains: Chains::new(Arc::clone(&maps)),
        connections: Connections::new(Arc::clone(&metrics)),
        metrics,
        names,
        contexts: Contexts::new(Arc::clone(&maps))?,
        health: Health::default(),
        listeners: Listeners::default(),
        namespaces: Namespaces::new(Arc::clone(&maps), clients),
        policies: Policies::new(Arc::clone(&maps), Arc::clone(&services), Arc::clone(&pods), file)?,
        maps: Arc::clone(&maps),
        pods,
        rules,
        services,
        began: Instant::now(),
        stop,
    });
    offer_ids(&maps)?;
    let (control, _socket_file) = control::listen(&options.name, group.as_ref())?;
    tokio::spawn(control::reload_at_hangup(Arc::clone(&agent), options.config.clone()));
    tokio::spawn(inbound::serve(Arc::clone(&agent), come));
    for listening in maps.all_listening() {
        agent.listeners.heard(&agent, &listening);
    }
    tokio::spawn(control.serve(Arc::clone(&agent), options.config.clone()));
    if let Some(at) = monitor {
        monitor::serve(Arc::clone(&agent), at).await?;
    }
    agent.services.open().await?;
    agent.health.set_ready(true);
    monitor::tell(&[NotifyState::Ready]);
    tokio::spawn(monitor::watchdog(Arc::clone(&agent)));
    tokio::spawn(follow(Arc::clone(&agent)));
    tokio::spawn(pods::follow(Arc::clone(&agent)));
    tokio::spawn(refresh(Arc::clone(&agent)));
    let mut serving = tokio::spawn(serve(Arc::clone(&agent), Events::new(ring)?));
    let attended = tokio::select! {
        attended = attended() => attended,
        // Without it every connect would wait for nothing: close, and say so.
        failed = &mut serving => return failed?.and(Err(anyhow!("the agent has stopped serving"))),
    };
    monitor::tell(&[NotifyState::Stopping]);
    agent.health.set_ready(false);
    let Some(mut hooks) = agent.services.take_hooks().await else { bail!("the hooks were taken before") };
    hooks.close();
    agent.stop.cancel();
    serving.await??;
    if options.leave_guards {
        if agent.services.paths().is_empty() {
            hooks.unload()?;
        } else {
            info!("the guards stay attached, and refuse every TLS socket until the next run");
        }
        return attended;
    }
    end_sockets(&maps).await;
    // From here on no plain socket can become a TLS socket; one may have, since they were counted.
    let attached = agent.services.paths();
    attached.keys().try_for_each(|id| hooks.detach_options(*id))?;
    end_sockets(&maps).await;
    attached.keys().try_for_each(|id| hooks.detach(*id))?;
    hooks.unload()?;
    info!("detached");
    attended
}

/// Handles events until the agent is to end and no attempt is left.
async fn serve(agent: Arc<Agent>, mut events: Events) -> Result<()> {
    let mut registry = Registry::default();
    let mut lost = agent.maps.counter(Counter::EventsLost);
    let mut looked = Instant::now();
    while !(agent.stop.is_cancelled() && registry.tasks.is_empty()) {
        let batch = events.batch(TICK, |event| handle(&agent, &mut registry, event)).await;
        batch.context("reading the hooks' events")?;
        agent.health.beat();
        offer_ids(&agent.maps)?;
        agent.maps.forget_old();
        agent.names.look();
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            agent.namespaces.forget_idle();
        }
        let now = agent.maps.counter(Counter::EventsLost);
        if now != lost {
            warn!(lost = now - lost, "the ring buffer was full");
            lost = now;
            registry.reconcile(&agent);
        }
    }
    Ok(())
}

fn handle(agent: &Arc<Agent>, registry: &mut Registry, event: Event) {
    match event {
        // Its id has left the pool, which is refilled after each batch.
        Event::Opened(opened) => {
            agent.policies.met(&opened.caller);
            if !agent.namespaces.has(&opened.caller) {
                let agent = Arc::clone(agent);
                // What is there already need not be waited for by the first connect, or the first client.
                tokio::spawn(async move { agent.namespaces.of(&opened.caller).await.map(drop) });
            }
        }
        Event::Blob(set) => agent.contexts.set(&set),
        Event::Held(held) => registry.held(agent, held),
        Event::Left(left) => registry.left(&left),
        Event::Changed(changed) => registry.changed(agent, &changed),
        Event::Listening(listening) => agent.listeners.heard(agent, &listening),
        Event::Closed(closed) => registry.closed(agent, &closed),
    }
}

/// Fills the pool of socket ids: random, so that nobody can guess a context's, and never zero.
fn offer_ids(maps: &Maps) -> Result<()> {
    loop {
        let mut bytes = [0; 8];
        openssl::rand::rand_bytes(&mut bytes)?;
        let id = u64::from_ne_bytes(bytes);
        if id != 0 && !maps.offer_id(id) {
            return Ok(());
        }
    }
}

async fn follow(agent: Arc<Agent>) {
    if let Err(error) = services::follow(agent).await {
        error!(error = format!("{error:#}"), "services are no longer attached by themselves");
    }
}

/// Takes up files of the configuration that were replaced, for as long as the agent runs.
async fn refresh(agent: Arc<Agent>) {
    const LOOK: Duration = Duration::from_secs(2);
    let mut told = HashSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = agent.stop.cancelled() => return,
        }
        let own = Arc::clone(&agent);
        let looked = tokio::task::spawn_blocking(move || {
            own.policies.renew(&mut told);
            told
        });
        let Ok(same) = looked.await else { return };
        told = same;
    }
}

/// Waits until no TLS socket of the cgroup is left. Those that were connected are reset by now, and
/// those that were connecting were refused; but one that is open still must not become a plain
/// socket.
async fn end_sockets(maps: &Maps) {
    let mut told = 0;
    loop {
        let open = maps.counter(Counter::Sockets);
        if open == 0 {
            return;
        }
        if open != told {
            told = open;
            warn!(open, "TLS sockets are still open in the cgroup; waiting for their programs to close them");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Passes the hooks' own messages on (level debug, target `ssa_hooks`).
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
