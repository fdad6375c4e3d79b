//! Wiring: builds the parts of an agent, each with the others that it needs. Nothing else knows all of them.

use std::{collections::HashSet, sync::Arc, time::Instant};

use anyhow::Result;
use ssa_common::limits::Counter;
use tokio::sync::mpsc;

use super::{
    admin::Admin,
    events::EventLoop,
    reconcile::Reconciler,
    run::RunOptions,
    tasks::Background,
    upgrade::{
        protocol::TransferredState,
        successor::{Successor, Transfer},
    },
};
use crate::{
    connection::{Answers, ConnectionTable},
    drain::Lifecycle,
    enforce::{Enforcement, LearnedNames, Limits, Policies, Rules, Settling},
    inbound::{AcceptedSockets, Inbound, Listeners, Parking},
    kernel::{AnswerMap, Hooks, Maps, SocketMaps},
    netns::{Client, Namespaces},
    options::Options,
    outbound::{Attempts, Outbound},
    policy::{File, Pods},
    revocation::Revocation,
    services::Services,
    sys::cgroup,
    telemetry::{Health, Metrics, Snapshot},
};

/// Hooks of the agent; none once they were taken, to be detached or handed over.
pub(crate) type SharedHooks = Arc<tokio::sync::Mutex<Option<Hooks>>>;

/// Agent that is built and does not serve yet, by what becomes of each part.
pub(super) struct Wired {
    /// Phase of the process, as `app` sets it.
    pub(super) lifecycle: Arc<Lifecycle>,
    /// Attached cgroups.
    pub(super) services: Arc<Services>,
    /// Hooks, for the end of the agent or its successor.
    pub(super) hooks: SharedHooks,
    /// Loop to which events go.
    pub(super) event_loop: EventLoop,
    /// Tasks that run beside the event loop.
    pub(super) background: Background,
    /// State that a successor gets.
    pub(super) transfer: Transfer,
    /// Connects that the agent before this one was at: bytes of [`ssa_common::event::Held`].
    pub(super) held: Vec<Vec<u8>>,
}

/// Builds all parts, and attaches the cgroups of `options`. Clients of applications' listeners go to `clients`, agents that are
/// ready to take this one's place to `candidates`. Must be called inside the runtime. Blocks.
pub(super) fn wire(
    options: &RunOptions,
    file: &Arc<File>,
    (mut hooks, maps): (Hooks, Maps),
    state: TransferredState,
    clients: mpsc::Sender<Client>,
    candidates: mpsc::Sender<Successor>,
) -> Result<Wired> {
    let began = Instant::now();
    let Maps { answers, listeners, options: option_maps, policy, rules, sockets, names } = maps;
    let lifecycle = Lifecycle::new();
    let drain = lifecycle.drain();
    let metrics = Arc::new(Metrics::new()?);
    let pods = Arc::new(Pods::new(state.pods));
    let (agent, bpffs) = (options.name.clone(), options.bpffs.clone());
    let services = Arc::new(Services::new(agent, bpffs, Arc::clone(&sockets), state.commands, drain.clone()));
    let rules = Rules::new(rules, Arc::clone(&pods), Arc::clone(&services), Arc::clone(file), &options.cgroups)?;
    let attached = Arc::clone(services.attached());
    let revocation = Revocation::new(file.cache_directory(), Arc::clone(&metrics));
    let application_options = Arc::new(Options::new(option_maps, Arc::clone(&revocation))?);
    application_options.restore(state.texts);
    let policies = Policies::new(policy, Arc::clone(&attached), Arc::clone(file))?;
    // Last: what the hooks find in the maps holds from their first call on.
    hooks.attach(&cgroup::mount()?)?;
    let hooks: SharedHooks = Arc::new(tokio::sync::Mutex::new(Some(hooks)));
    let names = LearnedNames::new(names, state.names);
    let limits = Limits::new(&file.machine().limits);
    let enforcement = Arc::new(Enforcement { policies, rules, names, limits, settling: Settling::default() });
    let namespaces = Arc::new(Namespaces::new(Arc::clone(&listeners), clients));
    let answers = Answers::new(answers as Arc<dyn AnswerMap>);
    let table = ConnectionTable::new(Arc::clone(&metrics));
    let health = Arc::new(Health::new(drain.clone()));
    let outbound = Arc::new(Outbound {
        enforcement: Arc::clone(&enforcement),
        options: Arc::clone(&application_options),
        namespaces: Arc::clone(&namespaces),
        revocation: Arc::clone(&revocation),
        answers: answers.clone(),
        table: table.clone(),
        attached: Arc::clone(&attached),
        drain: drain.clone(),
    });
    let inbound = Arc::new(Inbound {
        enforcement: Arc::clone(&enforcement),
        options: Arc::clone(&application_options),
        namespaces: Arc::clone(&namespaces),
        revocation,
        answers: answers.clone(),
        table: table.clone(),
        attached,
        drain: drain.clone(),
        maps: listeners,
        listeners: Listeners::default(),
        parking: Parking::default(),
        accepted: AcceptedSockets::default(),
    });
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
        began,
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
        sockets: Arc::clone(&sockets),
        inbound: Arc::clone(&inbound),
        snapshot: snapshot(&services, &enforcement, &sockets, &table),
        drain: drain.clone(),
    };
    let transfer = Transfer {
        services: Arc::clone(&services),
        hooks: Arc::clone(&hooks),
        options: Arc::clone(&application_options),
        enforcement: Arc::clone(&enforcement),
        pods,
        answers: answers.clone(),
    };
    let event_loop = EventLoop {
        attempts: Attempts::new(outbound),
        inbound: Arc::clone(&inbound),
        options: application_options,
        enforcement,
        namespaces,
        answers,
        table,
        sockets,
        health,
        predecessor: None,
        drain,
    };
    Ok(Wired { lifecycle, services, hooks, event_loop, background, transfer, held: state.held })
}

/// Reads what metrics need of the running agent.
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
