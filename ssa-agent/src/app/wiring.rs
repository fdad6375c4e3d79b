//! Wiring: builds the parts of an agent, each with the others that it needs. Nothing else knows all of them.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use tokio::sync::mpsc;

use super::upgrade::protocol::TransferredState;
use crate::{
    connection::{Answers, ConnectionTable},
    drain::Lifecycle,
    enforce::{Enforcement, LearnedNames, Limits, Policies, Rules},
    inbound::{AcceptedSockets, Inbound, Listeners},
    kernel::{AnswerMap, Hooks, Maps, SocketMaps},
    netns::{Client, Namespaces},
    options::Options,
    outbound::Outbound,
    policy::{File, Pods},
    revocation::Revocation,
    services::Services,
    telemetry::{Health, Metrics},
};

/// Parts of an agent, to be given out by [`super::run::run`] and kept by nobody.
pub(super) struct Parts {
    /// Phase of the process, as `app` sets it.
    pub(super) lifecycle: Arc<Lifecycle>,
    /// Answers to applications.
    pub(super) answers: Answers,
    /// Configuration in force.
    pub(super) enforcement: Arc<Enforcement>,
    /// Health of the process.
    pub(super) health: Arc<Health>,
    /// Parts that inbound connections share.
    pub(super) inbound: Arc<Inbound>,
    /// Metrics of the agent.
    pub(super) metrics: Arc<Metrics>,
    /// Network namespaces that are served.
    pub(super) namespaces: Arc<Namespaces>,
    /// Settings of applications.
    pub(super) options: Arc<Options>,
    /// Parts that outbound connections share.
    pub(super) outbound: Arc<Outbound>,
    /// Pods of this node.
    pub(super) pods: Arc<Pods>,
    /// Attached cgroups.
    pub(super) services: Arc<Services>,
    /// Maps of ids and counters.
    pub(super) sockets: Arc<SocketMaps>,
    /// Open connections and failures.
    pub(super) table: ConnectionTable,
    /// Connects that the agent before this one was at: bytes of [`ssa_common::event::Held`].
    pub(super) held: Vec<Vec<u8>>,
}

/// Builds all parts, and attaches `cgroups`. Clients of applications' listeners go to `clients`. Must be called inside
/// the runtime. Blocks.
pub(super) fn wire(
    hooks: Hooks,
    maps: Maps,
    cgroups: &[PathBuf],
    file: &Arc<File>,
    state: TransferredState,
    clients: mpsc::Sender<Client>,
) -> Result<Parts> {
    let Maps { answers, listeners, options, policy, rules, sockets, names } = maps;
    let lifecycle = Lifecycle::new();
    let drain = lifecycle.drain();
    let metrics = Arc::new(Metrics::new()?);
    let pods = Arc::new(Pods::new(state.pods));
    // Before anything is attached: there is no moment in which a rule does not hold.
    let rules = Rules::new(rules, Arc::clone(&pods), Arc::clone(file))?;
    let services = Services::attach_all(hooks, Arc::clone(&sockets), cgroups, state.detached, drain.clone())?;
    let services = Arc::new(services);
    let attached = Arc::clone(services.attached());
    let revocation = Revocation::new(file.cache_directory(), Arc::clone(&metrics));
    let options = Arc::new(Options::new(options, Arc::clone(&revocation))?);
    options.restore(state.texts);
    let policies = Policies::new(policy, Arc::clone(&attached), Arc::clone(&pods), Arc::clone(file))?;
    let names = LearnedNames::new(names, state.names);
    let limits = Limits::new(&file.machine().limits);
    let enforcement = Arc::new(Enforcement { policies, rules, names, limits });
    let namespaces = Arc::new(Namespaces::new(Arc::clone(&listeners), clients));
    let answers = Answers::new(answers as Arc<dyn AnswerMap>);
    let table = ConnectionTable::new(Arc::clone(&metrics));
    let outbound = Arc::new(Outbound {
        enforcement: Arc::clone(&enforcement),
        options: Arc::clone(&options),
        namespaces: Arc::clone(&namespaces),
        revocation: Arc::clone(&revocation),
        answers: answers.clone(),
        table: table.clone(),
        attached: Arc::clone(&attached),
        drain: drain.clone(),
    });
    let inbound = Arc::new(Inbound {
        enforcement: Arc::clone(&enforcement),
        options: Arc::clone(&options),
        namespaces: Arc::clone(&namespaces),
        revocation,
        answers: answers.clone(),
        table: table.clone(),
        attached,
        drain: drain.clone(),
        maps: listeners,
        listeners: Listeners::default(),
        accepted: AcceptedSockets::default(),
    });
    let health = Arc::new(Health::new(drain));
    let held = state.held;
    Ok(Parts {
        lifecycle,
        answers,
        enforcement,
        health,
        inbound,
        metrics,
        namespaces,
        options,
        outbound,
        pods,
        services,
        sockets,
        table,
        held,
    })
}
