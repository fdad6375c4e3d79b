//! The live sockets: turns events into attempts, and tells each attempt what the kernel says.

use std::{collections::HashMap, sync::Arc};

use ssa_common::{
    connection::Connection,
    event::{Changed, Closed, Held, HoldEnded},
};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::debug;
use zerocopy::IntoBytes as _;

use crate::{
    agent::Agent,
    kernel::packet::Syn,
    outbound::{self, Progress},
    peer_leg::Wishes,
};

/// Sockets by id. Owned by the one task that reads events.
#[derive(Default)]
pub(crate) struct Registry {
    live: HashMap<u64, Live>,
    /// The attempts' tasks.
    pub(crate) tasks: TaskTracker,
}

struct Live {
    attempt: u32,
    /// As it was held first, until it is over: for an agent that takes over.
    held: Option<Box<Held>>,
    progress: watch::Sender<Progress>,
    wishes: watch::Sender<Wishes>,
}

impl Registry {
    /// A SYN was held: the first of an attempt starts it, others tell it to repeat its verdict.
    pub(crate) fn held(&mut self, agent: &Arc<Agent>, held: Box<Held>) {
        let Some(syn) = held.syn.get(..held.syn_len as usize).and_then(Syn::parse) else {
            debug!(id = held.id, "held a packet that is no SYN");
            return;
        };
        let syn = Arc::new(syn);
        if let Some(live) = self.live.get(&held.id)
            && live.attempt == held.attempt
            // Or it was left to an agent that did not take over after all.
            && !live.progress.is_closed()
        {
            live.progress.send_modify(|progress| {
                progress.syn = syn;
                progress.held += 1;
            });
            return;
        }
        // What waited in the ring while no agent ran may be over. And an answer to the last attempt may
        // just have met the entry of this one.
        match agent.maps.attempt(held.id) {
            Some(attempt) if attempt <= held.attempt => {
                agent.maps.publish(held.id, &Connection::pending(held.attempt));
            }
            Some(_) | None => return,
        }
        let (progress, follow) = watch::channel(Progress { syn, held: 1, left: None, closed: false });
        let (wishes, follow_wishes) = watch::channel(Wishes::new(held.peer_options));
        self.live.insert(held.id, Live { attempt: held.attempt, held: Some(held.clone()), progress, wishes });
        self.tasks.spawn(outbound::run(Arc::clone(agent), held, follow, follow_wishes));
    }

    /// An attempt has left SYN_SENT.
    pub(crate) fn left(&mut self, left: &HoldEnded) {
        if let Some(live) = self.live.get_mut(&left.id)
            && live.attempt == left.attempt
        {
            live.held = None;
            live.progress.send_modify(|progress| progress.left = Some(left.tcp_state));
        }
    }

    /// An option for the peer leg was set.
    pub(crate) fn changed(&mut self, agent: &Agent, changed: &Changed) {
        let change = |wishes: &mut Wishes| {
            if let Some(value) = wishes.options.get_mut(changed.slot as usize) {
                *value = changed.value;
            }
        };
        match self.live.get(&changed.id) {
            Some(live) => live.wishes.send_modify(change),
            None => agent.listeners.modify(changed.id, change),
        }
    }

    /// A socket was closed for the last time.
    pub(crate) fn closed(&mut self, agent: &Arc<Agent>, closed: &Closed) {
        if let Some(live) = self.live.remove(&closed.id) {
            live.progress.send_modify(|progress| progress.closed = true);
            live.wishes.send_modify(|wishes| wishes.closed = true);
        }
        agent.listeners.closed(agent, closed.id);
        agent.chains.forget(closed.id);
        agent.contexts.forget_if_gone(closed.context);
        agent.contexts.forget_if_gone(closed.id);
    }

    /// The connects that nobody works on any more, for an agent that takes over.
    pub(crate) fn held_still(&self) -> Vec<Vec<u8>> {
        let left = self.live.values().filter(|live| live.progress.is_closed());
        left.filter_map(|live| live.held.as_ref()).map(|held| held.as_bytes().to_vec()).collect()
    }

    /// Drops the sockets whose close was not heard of, because the ring buffer was full.
    pub(crate) fn reconcile(&mut self, agent: &Agent) {
        self.live.retain(|id, live| {
            let open = agent.maps.attempt(*id).is_some();
            if !open {
                live.progress.send_modify(|progress| progress.closed = true);
                live.wishes.send_modify(|wishes| wishes.closed = true);
                agent.chains.forget(*id);
                agent.contexts.forget_if_gone(*id);
            }
            open
        });
    }
}
