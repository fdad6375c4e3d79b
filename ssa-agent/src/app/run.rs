//! The running agent: reads the hooks' events until it is told to stop.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use sd_notify::NotifyState;
use ssa_common::{
    event::{Changed, EventKind, Held},
    limits::Counter,
};
use tokio::{
    io::unix::AsyncFd,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use zerocopy::FromBytes as _;

use super::upgrade::{self as handover, Estate, Predecessor, Succession, Successor};
use crate::{
    connection::{chains::Chains, table::Connections},
    control::server as control,
    enforce::{learned_names::Names, limits::Limits, rules::Rules},
    inbound::{connection as inbound, listeners::Listeners},
    kernel::{
        bpf as sys,
        events::{Event, Events},
        loader::Hooks,
        maps::Maps,
    },
    netns::namespace::Namespaces,
    options::store::Contexts,
    outbound::attempts::Registry,
    policy::{file::Config, policy::Policies},
    revocation::revocation::Revocation,
    services::{
        pods::{self, Pods},
        services::{self, Services},
    },
    sys::on_behalf,
    telemetry::{
        metrics::Metrics,
        monitor::{self, Health},
    },
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
    /// Take the place of an agent of the same name, if there is one.
    pub(crate) take_over: bool,
}

/// What all connections share.
pub(crate) struct Agent {
    pub(crate) maps: Arc<Maps>,
    pub(crate) chains: Chains,
    pub(crate) connections: Connections,
    pub(crate) contexts: Contexts,
    pub(crate) health: Health,
    pub(crate) limits: Limits,
    pub(crate) listeners: Listeners,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) names: Names,
    pub(crate) namespaces: Namespaces,
    pub(crate) pods: Arc<Pods>,
    pub(crate) policies: Policies,
    pub(crate) rules: Rules,
    pub(crate) services: Arc<Services>,
    /// Held while a configuration is put in force, or the agent is replaced.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// To the task that reads the events: agents that are ready to take this one's place.
    pub(crate) heirs: mpsc::Sender<Successor>,
    pub(crate) succession: Succession,
    /// The agent in whose place this one is, while it finishes its connections.
    pub(crate) predecessor: OnceLock<mpsc::UnboundedSender<Changed>>,
    /// Connects whose programs have no connection yet.
    pub(crate) resuming: TaskTracker,
    pub(crate) revocation: Arc<Revocation>,
    retiring: Mutex<CancellationToken>,
    pub(crate) began: Instant,
    /// Cancelled when the agent is to end: held connects are refused, connections reset.
    pub(crate) stop: CancellationToken,
}

impl Agent {
    /// Cancelled when another agent takes over: connects that are on their way are left to it.
    pub(crate) fn retiring(&self) -> CancellationToken {
        self.retiring.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The other agent did not take over.
    pub(crate) fn renew_retiring(&self) {
        *self.retiring.lock().unwrap_or_else(PoisonError::into_inner) = CancellationToken::new();
    }
}

/// Clients that were accepted for a listener and are not looked at yet.
const CLIENTS_WAITING: usize = 1024;

/// How often ids are refilled and lost events made up for, if no event comes.
const TICK: Duration = Duration::from_millis(100);
/// How often namespaces that nobody uses are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// How an agent's time was over.
pub(crate) enum End {
    /// Nothing is attached any more, or what was stays, closed.
    Detached,
    /// Another agent serves in its place.
    HandedOver,
}

/// Attaches, serves for as long as `attended` takes, then ends what is open and detaches.
pub(crate) async fn run(options: Options, attended: impl AsyncFnOnce() -> Result<()>) -> Result<End> {
    on_behalf::prepare().context("sockets to hand sockets over")?;
    let file = Arc::new(options.config.read()?);
    let mut predecessor = if options.take_over { Predecessor::ask(&options.name).await? } else { None };
    let mut hooks = Hooks::load(&options.name, &options.bpffs, predecessor.is_some())?;
    let maps = Arc::new(hooks.maps.take().context("the maps were taken before")?);
    if let Some(logger) = hooks.logger.take() {
        tokio::spawn(log_hooks(sys::async_fd(logger)?));
    }
    let ring = maps.take_names().context("the names were taken before")?;
    let metrics = Arc::new(Metrics::new()?);
    let estate = match &mut predecessor {
        None => Estate::default(),
        Some(predecessor) => {
            let estate = predecessor.take().await?;
            hooks.lock_again().await?;
            // No connect may find the guards closed.
            hooks.open()?;
            estate
        }
    };
    let (clients, come) = mpsc::channel(CLIENTS_WAITING);
    let (heirs, candidates) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let pods = Arc::new(Pods::new(estate.pods));
    // Before anything is attached: there is no moment in which a rule does not hold.
    let rules = Rules::new(Arc::clone(&maps), Arc::clone(&pods), Arc::clone(&file))?;
    let services = Arc::new(Services::attach_all(hooks, &maps, &options.cgroups, estate.detached, &stop)?);
    let revocation = Revocation::new(file.cache_directory(), Arc::clone(&metrics));
    let agent = Arc::new(Agent {
        chains: Chains::new(Arc::clone(&maps)),
        changing: tokio::sync::Mutex::default(),
        connections: Connections::new(Arc::clone(&metrics)),
        metrics,
        names: Names::new(ring, estate.names),
        contexts: Contexts::new(Arc::clone(&maps), Arc::clone(&revocation), estate.texts)?,
        health: Health::default(),
        heirs,
        limits: Limits::new(&file.machine().limits),
        listeners: Listeners::default(),
        namespaces: Namespaces::new(Arc::clone(&maps), clients),
        policies: Policies::new(Arc::clone(&maps), Arc::clone(&services), Arc::clone(&pods), Arc::clone(&file))?,
        maps: Arc::clone(&maps),
        pods,
        predecessor: OnceLock::new(),
        resuming: TaskTracker::new(),
        revocation,
        retiring: Mutex::default(),
        rules,
        services,
        succession: Succession::default(),
        began: Instant::now(),
        stop,
    });
    offer_ids(&maps)?;
    tokio::spawn(inbound::serve(Arc::clone(&agent), come));
    for listening in maps.all_listening() {
        agent.listeners.heard(&agent, &listening);
    }
    let chores = Chores::begin(&agent, &options).await?;
    agent.services.open().await?;
    if let Some(predecessor) = predecessor {
        agent.listeners.settled(&agent).await;
        let tell = predecessor.serving().await?;
        agent.predecessor.set(tell).expect("it is set once");
    }
    agent.health.set_ready(true);
    monitor::tell(&[NotifyState::Ready]);
    let held = estate.held.iter().filter_map(|held| Held::read_from_bytes(held).ok()).collect();
    let finish = file.finish_limit();
    let work = Work { agent: Arc::clone(&agent), chores, candidates, held, options: options.clone(), finish };
    let mut serving = tokio::spawn(serve(work, Events::new(maps.events()?)?));
    let attended = tokio::select! {
        attended = attended() => attended,
        // Without it every connect would wait for nothing: close, and say so.
        served = &mut serving => return match served?? {
            End::HandedOver => Ok(End::HandedOver),
            End::Detached => Err(anyhow!("the agent has stopped serving")),
        },
    };
    let changing = agent.changing.lock().await;
    if agent.succession.is_done() {
        drop(changing);
        let connections = agent.connections.count();
        warn!(connections, "another agent serves; finishing connections. A second signal ends them");
        return serving.await?;
    }
    monitor::tell(&[NotifyState::Stopping]);
    agent.health.set_ready(false);
    let Some(mut hooks) = agent.services.take_hooks().await else { bail!("the hooks were taken before") };
    hooks.close();
    agent.stop.cancel();
    drop(changing);
    serving.await??;
    if options.leave_guards {
        if agent.services.paths().is_empty() {
            hooks.unload()?;
        } else {
            info!("the guards stay attached, and refuse every TLS socket until the next run");
        }
        return attended.map(|()| End::Detached);
    }
    end_sockets(&maps).await;
    // From here on no plain socket can become a TLS socket; one may have, since they were counted.
    let attached = agent.services.paths();
    attached.keys().try_for_each(|id| hooks.detach_options(*id))?;
    end_sockets(&maps).await;
    attached.keys().try_for_each(|id| hooks.detach(*id))?;
    hooks.unload()?;
    info!("detached");
    attended.map(|()| End::Detached)
}

/// What only the agent that serves does, beside serving.
struct Chores {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// Those that answer others, and can be ended at any moment.
    answering: Vec<AbortHandle>,
    socket: control::SocketFile,
}

impl Chores {
    async fn begin(agent: &Arc<Agent>, options: &Options) -> Result<Self> {
        let file = agent.rules.file();
        let (control, socket) = control::listen(&options.name, file.control_group().as_ref())?;
        let mut answering = vec![tokio::spawn(control.serve(Arc::clone(agent), options.config.clone())).abort_handle()];
        if let Some(at) = file.monitor() {
            answering.push(monitor::serve(Arc::clone(agent), at).await?);
        }
        let stop = agent.stop.child_token();
        let mut tasks = JoinSet::new();
        let own = || (Arc::clone(agent), stop.clone());
        let (held, told) = own();
        tasks.spawn(control::reload_at_hangup(held, options.config.clone(), told));
        let (held, told) = own();
        tasks.spawn(monitor::watchdog(held, told));
        let (held, told) = own();
        tasks.spawn(follow(held, told));
        let (held, told) = own();
        tasks.spawn(pods::follow(held, told));
        let (held, told) = own();
        tasks.spawn(refresh(held, told));
        Ok(Self { stop, tasks, answering, socket })
    }

    /// Waits until nobody is at any of it. The control socket is another agent's from here on.
    async fn end(mut self) {
        self.stop.cancel();
        self.answering.iter().for_each(AbortHandle::abort);
        while self.tasks.join_next().await.is_some() {}
        self.socket.leave();
    }
}

/// What the task has that reads the events.
struct Work {
    agent: Arc<Agent>,
    chores: Chores,
    /// Agents that are ready to take this one's place.
    candidates: mpsc::Receiver<Successor>,
    /// Connects that the agent before this one was at.
    held: Vec<Held>,
    options: Options,
    /// How long connections may go on when another agent has taken over.
    finish: Duration,
}

/// Handles events until the agent is to end and no attempt is left, or until another agent does so and no connection is.
async fn serve(work: Work, mut events: Events) -> Result<End> {
    let Work { agent, mut chores, mut candidates, held, options, finish } = work;
    let mut registry = Registry::default();
    held.into_iter().for_each(|held| registry.held(&agent, Box::new(held)));
    let mut lost = agent.maps.counter(Counter::EventsLost);
    let mut looked = Instant::now();
    while !(agent.stop.is_cancelled() && registry.tasks.is_empty()) {
        let batch = tokio::select! {
            batch = events.batch(TICK, |event| handle(&agent, &mut registry, event)) => batch,
            Some(mut heir) = candidates.recv() => {
                let changing = agent.changing.lock().await;
                if agent.stop.is_cancelled() {
                    continue;
                }
                info!(pid = heir.pid, "handing over to another agent");
                chores.end().await;
                match heir.take(&agent, || registry.held_still()).await {
                    Ok(()) => {
                        drop(changing);
                        return Ok(retire(&agent, &mut registry, heir, finish).await);
                    }
                    Err(error) => warn!(error = format!("{error:#}"), "the other agent did not take over: going on"),
                }
                handover::take_back(&agent, heir).await.context("taking back what was to be another agent's")?;
                chores = Chores::begin(&agent, &options).await?;
                events = Events::new(agent.maps.events()?)?;
                continue;
            }
        };
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
    Ok(End::Detached)
}

/// Finishes what is open, when another agent serves.
async fn retire(agent: &Arc<Agent>, registry: &mut Registry, heir: Successor, finish: Duration) -> End {
    let pid = heir.pid;
    info!(pid, connections = agent.connections.count(), "another agent serves; finishing what is open");
    if let Some(pid) = pid {
        monitor::tell(&[NotifyState::MainPid(pid)]);
    }
    agent.listeners.retire();
    let deadline = tokio::time::Instant::now() + finish;
    let mut heir = Some(heir);
    loop {
        let changed = async {
            match &mut heir {
                Some(heir) => heir.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changed => match changed {
                Some((slot, id, value)) => {
                    registry.changed(agent, &Changed { kind: EventKind::CHANGED, slot, id, value, reserved: 0 });
                }
                None => heir = None,
            },
            () = tokio::time::sleep(LOOK) => {
                registry.reconcile(agent);
                agent.listeners.reconcile(agent);
                if agent.limits.is_idle() {
                    info!("every connection is finished");
                    return End::HandedOver;
                }
            }
            () = tokio::time::sleep_until(deadline) => {
                let connections = agent.connections.count();
                warn!(connections, "connections are not finished in time: resetting them");
                return End::HandedOver;
            }
        }
    }
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
        Event::Changed(changed) => {
            registry.changed(agent, &changed);
            if let Some(tell) = agent.predecessor.get() {
                // It has ended, or knows the socket, or does not.
                let _ended = tell.send(changed);
            }
        }
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

async fn follow(agent: Arc<Agent>, stop: CancellationToken) {
    if let Err(error) = services::follow(agent, stop).await {
        error!(error = format!("{error:#}"), "services are no longer attached by themselves");
    }
}

/// Takes up files of the configuration that were replaced, for as long as the agent runs.
async fn refresh(agent: Arc<Agent>, stop: CancellationToken) {
    const LOOK: Duration = Duration::from_secs(2);
    let mut told = HashSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return,
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
