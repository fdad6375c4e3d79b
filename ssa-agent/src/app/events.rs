//! Event loop: passes on the hooks' events, in order.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ssa_common::{
    event::{Changed, Held},
    limits::Counter,
};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{
    shutdown,
    tasks::{ActiveTasks, Background},
    upgrade::successor::{Successor, Transfer},
};
use crate::{
    connection::{Answers, ConnectionTable, new_id},
    drain::{Drain, Lifecycle},
    enforce::Enforcement,
    inbound::Inbound,
    kernel::{Event, Events, SocketMaps},
    netns::Namespaces,
    options::Options,
    outbound::Attempts,
    telemetry::Health,
};

/// Period in which ids are refilled and lost events made up for, if no event comes.
const TICK: Duration = Duration::from_millis(100);
/// Period in which namespaces that nobody uses are looked for.
const POLL_NAMESPACES: Duration = Duration::from_secs(1);

/// Way in which an agent's time was over.
pub(crate) enum End {
    /// End by a signal or command: no attempt is left.
    Stopped,
    /// Another agent serves in its place.
    HandedOver,
}

/// Receivers of the events, and what the loop reads between them.
pub(crate) struct EventLoop {
    /// Sockets that connect.
    pub(crate) attempts: Attempts,
    /// Listeners and accepted sockets.
    pub(crate) inbound: Arc<Inbound>,
    /// Settings of applications.
    pub(crate) options: Arc<Options>,
    /// Configuration in force, which learns cgroups and names from events.
    pub(crate) enforcement: Arc<Enforcement>,
    /// Network namespaces, entered at a socket's first event.
    pub(crate) namespaces: Arc<Namespaces>,
    /// Answers to applications, forgotten when a socket is closed.
    pub(crate) answers: Answers,
    /// Open connections, to be counted.
    pub(crate) table: ConnectionTable,
    /// Maps of ids and counters.
    pub(crate) sockets: Arc<SocketMaps>,
    /// Health, which is told of each look at the events.
    pub(crate) health: Arc<Health>,
    /// Queue to the agent in whose place this one is, while it finishes its connections: options that were set.
    pub(crate) predecessor: Option<mpsc::UnboundedSender<Changed>>,
    /// Phase of the process.
    pub(crate) drain: Drain,
}

/// Duties of the loop beside events: a handover, and what it needs.
pub(crate) struct Duties {
    /// Phase of the process, which a handover changes.
    pub(crate) lifecycle: Arc<Lifecycle>,
    /// Background tasks, begun already, and begun again after a handover that failed.
    pub(crate) tasks: ActiveTasks,
    /// Parts that the background tasks are begun with.
    pub(crate) background: Background,
    /// Queue of agents that are ready to take this one's place.
    pub(crate) candidates: mpsc::Receiver<Successor>,
    /// State that such an agent gets.
    pub(crate) transfer: Transfer,
    /// Time for which connections may go on when another agent has taken over.
    pub(crate) finish: Duration,
}

impl EventLoop {
    /// Handles events until the agent is to end and no attempt is left, or until another agent does so and no
    /// connection is. `held` are connects that the agent before this one was at.
    ///
    /// Errors: the ring buffer can't be read, OpenSSL has no random numbers, or a handover can't be rolled back.
    pub(crate) async fn run(mut self, mut events: Events, held: Vec<Held>, duties: Duties) -> Result<End> {
        let Duties { lifecycle, mut tasks, background, mut candidates, transfer, finish } = duties;
        held.into_iter().for_each(|held| self.attempts.held(Box::new(held)));
        let mut lost = self.sockets.counter(Counter::EventsLost);
        let mut polled_namespaces = Instant::now();
        while !(self.drain.is_stopped() && self.attempts.is_idle()) {
            let batch = tokio::select! {
                batch = events.batch(TICK, |event| self.handle(event)) => batch,
                Some(mut successor) = candidates.recv() => {
                    info!(pid = successor.pid, "handing over to another agent");
                    // Before the turn to change: one of them may wait for its own, to reload at SIGHUP.
                    tasks.end().await;
                    let change = lifecycle.change().await;
                    if self.drain.is_stopped() {
                        tasks = ActiveTasks::begin(&background).await?;
                        continue;
                    }
                    match successor.release(&transfer, || self.attempts.left_over()).await {
                        Ok(()) => {
                            drop(change);
                            shutdown::finish(&mut self, successor, finish).await;
                            return Ok(End::HandedOver);
                        }
                        Err(error) => {
                            warn!(error = format!("{error:#}"), "the other agent did not take over: going on");
                        }
                    }
                    successor.roll_back(&transfer).await.context("taking back what was to be another agent's")?;
                    tasks = ActiveTasks::begin(&background).await?;
                    events = Events::new(self.sockets.events()?)?;
                    continue;
                }
            };
            batch.context("reading the hooks' events")?;
            self.health.beat();
            offer_ids(&self.sockets)?;
            self.sockets.forget_old();
            self.enforcement.names.take_in();
            if polled_namespaces.elapsed() >= POLL_NAMESPACES {
                polled_namespaces = Instant::now();
                self.namespaces.forget_idle();
            }
            let now = self.sockets.counter(Counter::EventsLost);
            if now != lost {
                warn!(lost = now - lost, "the ring buffer was full");
                lost = now;
                self.reconcile_attempts();
            }
        }
        Ok(End::Stopped)
    }

    fn handle(&mut self, event: Event) {
        match event {
            // Its id has left the pool, which is refilled after each batch.
            Event::Opened(opened) => {
                self.enforcement.policies.seen(&opened.caller);
                if !self.namespaces.has(&opened.caller) {
                    let namespaces = Arc::clone(&self.namespaces);
                    // What is there already need not be waited for by the first connect, or the first client.
                    tokio::spawn(async move { namespaces.of(&opened.caller).await.map(drop) });
                }
            }
            Event::Blob(set) => self.options.set(&set),
            Event::Held(held) => self.attempts.held(held),
            Event::HoldEnded(ended) => self.attempts.hold_ended(&ended),
            Event::Changed(changed) => {
                self.changed(&changed);
                if let Some(predecessor) = &self.predecessor {
                    // It has ended, or knows the socket, or does not.
                    let _ended = predecessor.send(changed);
                }
            }
            Event::Listening(listening) => self.inbound.listening(&listening),
            Event::Closed(closed) => {
                self.attempts.closed(closed.id);
                self.inbound.closed(closed.id);
                self.answers.forget_chain(closed.id);
                self.options.forget_if_gone(closed.context);
                self.options.forget_if_gone(closed.id);
            }
        }
    }

    /// Passes an option on that an application has set for the peer leg.
    pub(super) fn changed(&self, changed: &Changed) {
        if !self.attempts.changed(changed) {
            self.inbound.accepted.changed(changed.id, changed.slot, changed.value);
        }
    }

    /// Finds sockets whose close was missed.
    pub(super) fn reconcile(&mut self) {
        self.reconcile_attempts();
        self.inbound.reconcile();
    }

    fn reconcile_attempts(&mut self) {
        for id in self.attempts.reconcile() {
            self.answers.forget_chain(id);
            self.options.forget_if_gone(id);
        }
    }

    /// Leaves clients of listeners to a successor. Clients that have come before are still served.
    pub(super) fn leave_listeners(&self) {
        self.inbound.listeners.unsteer_all();
    }

    /// Whether no connection is open or on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.enforcement.limits.is_idle()
    }

    /// Number of open connections.
    pub(super) fn connections(&self) -> usize {
        self.table.count()
    }
}

/// Fills the pool of socket ids. Errors: OpenSSL has no random numbers.
pub(crate) fn offer_ids(sockets: &SocketMaps) -> Result<()> {
    while sockets.offer_id(new_id()?) {}
    Ok(())
}
