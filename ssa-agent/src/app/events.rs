//! The event loop: what the hooks tell goes to whom it concerns, in order.

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

/// How often ids are refilled and lost events made up for, if no event comes.
const TICK: Duration = Duration::from_millis(100);
/// How often namespaces that nobody uses are looked for.
const POLL_NAMESPACES: Duration = Duration::from_secs(1);

/// How an agent's time was over.
pub(crate) enum End {
    /// Nothing is attached any more, or what was stays, closed.
    Detached,
    /// Another agent serves in its place.
    HandedOver,
}

/// To whom events go.
pub(crate) struct EventLoop {
    pub(crate) attempts: Attempts,
    pub(crate) inbound: Arc<Inbound>,
    pub(crate) options: Arc<Options>,
    pub(crate) enforcement: Arc<Enforcement>,
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) answers: Answers,
    pub(crate) table: ConnectionTable,
    pub(crate) sockets: Arc<SocketMaps>,
    pub(crate) health: Arc<Health>,
    /// The agent in whose place this one is, while it finishes its connections.
    pub(crate) predecessor: Option<mpsc::UnboundedSender<Changed>>,
    /// The process's phase.
    pub(crate) drain: Drain,
}

/// What the loop does beside events.
pub(crate) struct Duties {
    pub(crate) lifecycle: Arc<Lifecycle>,
    /// Begun, and begun again after a handover that failed.
    pub(crate) tasks: ActiveTasks,
    pub(crate) background: Background,
    /// Agents that are ready to take this one's place.
    pub(crate) candidates: mpsc::Receiver<Successor>,
    /// What such an agent gets.
    pub(crate) transfer: Transfer,
    /// How long connections may go on when another agent has taken over.
    pub(crate) finish: Duration,
}

impl EventLoop {
    /// Handles events until the agent is to end and no attempt is left, or until another agent does so and no connection is.
    /// `held` are connects that the agent before this one was at.
    pub(crate) async fn run(mut self, mut events: Events, held: Vec<Held>, duties: Duties) -> Result<End> {
        let Duties { lifecycle, mut tasks, background, mut candidates, transfer, finish } = duties;
        held.into_iter().for_each(|held| self.attempts.held(Box::new(held)));
        let mut lost = self.sockets.counter(Counter::EventsLost);
        let mut looked = Instant::now();
        while !(self.drain.is_stopped() && self.attempts.is_idle()) {
            let batch = tokio::select! {
                batch = events.batch(TICK, |event| self.handle(event)) => batch,
                Some(mut successor) = candidates.recv() => {
                    let change = lifecycle.change().await;
                    if self.drain.is_stopped() {
                        continue;
                    }
                    info!(pid = successor.pid, "handing over to another agent");
                    tasks.end().await;
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
            if looked.elapsed() >= POLL_NAMESPACES {
                looked = Instant::now();
                self.namespaces.forget_idle();
            }
            let now = self.sockets.counter(Counter::EventsLost);
            if now != lost {
                warn!(lost = now - lost, "the ring buffer was full");
                lost = now;
                self.reconcile_attempts();
            }
        }
        Ok(End::Detached)
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
            Event::Left(left) => self.attempts.left(&left),
            Event::Changed(changed) => {
                self.changed(&changed);
                if let Some(tell) = &self.predecessor {
                    // It has ended, or knows the socket, or does not.
                    let _ended = tell.send(changed);
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

    /// An application has set an option for the peer leg.
    pub(super) fn changed(&self, changed: &Changed) {
        if !self.attempts.changed(changed) {
            self.inbound.accepted.changed(changed.id, changed.slot, changed.value);
        }
    }

    /// Finds what was closed and not heard of.
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

    /// Leaves clients of listeners to a successor. Who has come before is still served.
    pub(super) fn leave_listeners(&self) {
        self.inbound.listeners.unsteer_all();
    }

    /// Whether no connection is open or on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.enforcement.limits.is_idle()
    }

    /// Open connections.
    pub(super) fn connections(&self) -> usize {
        self.table.count()
    }
}

/// Fills the pool of socket ids.
pub(crate) fn offer_ids(sockets: &SocketMaps) -> Result<()> {
    while sockets.offer_id(new_id()?) {}
    Ok(())
}
