//! Sockets that connect: turns events into attempts, and passes later events on to each attempt's task.

use std::{collections::HashMap, sync::Arc};

use ssa_common::event::{Changed, Held, HoldEnded};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::debug;
use zerocopy::IntoBytes as _;

use super::{
    connection,
    hold::{HeldSyn, Progress},
    outbound::Outbound,
};
use crate::{connection::Attempt, dial::SocketOptions, kernel::Syn};

/// Attempts by socket id. Owned by the one task that reads events.
pub(crate) struct Attempts {
    outbound: Arc<Outbound>,
    sockets: HashMap<u64, ConnectingSocket>,
    /// Tasks of the attempts.
    tasks: TaskTracker,
}

/// A socket that has connected, or is about to.
struct ConnectingSocket {
    /// Count of the socket's connects, from 1.
    number: u32,
    /// The record of its first SYN, until the hold is over: for a successor.
    held: Option<Box<Held>>,
    progress: watch::Sender<Progress>,
    options: watch::Sender<SocketOptions>,
}

impl ConnectingSocket {
    /// Ends its task's waiting: the application has closed the socket.
    fn closed(&self) {
        self.progress.send_modify(|progress| progress.closed = true);
        self.options.send_modify(|options| options.closed = true);
    }
}

impl Attempts {
    /// Makes a table without attempts.
    pub(crate) fn new(outbound: Arc<Outbound>) -> Self {
        Self { outbound, sockets: HashMap::new(), tasks: TaskTracker::new() }
    }

    /// Whether no attempt's task is left.
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Takes a SYN that was held: the first of an attempt starts it, later ones make its task repeat the answer.
    pub(crate) fn held(&mut self, record: Box<Held>) {
        let Some(syn) = record.syn.get(..record.syn_len as usize).and_then(Syn::parse) else {
            debug!(id = record.id, "held a packet that is no SYN");
            return;
        };
        let syn = Arc::new(syn);
        if let Some(socket) = self.sockets.get(&record.id)
            && socket.number == record.attempt
            // Or it was left to a successor that did not take over after all.
            && !socket.progress.is_closed()
        {
            socket.progress.send_modify(|progress| {
                progress.syn = syn;
                progress.held += 1;
            });
            return;
        }
        // What waited in the ring while no agent ran may be over. And an answer to the last attempt may
        // just have met the entry of this one.
        let outbound = &self.outbound;
        match outbound.answers.attempt(record.id) {
            Some(number) if number <= record.attempt => {
                outbound.answers.pending(Attempt { id: record.id, number: record.attempt });
            }
            Some(_) | None => return,
        }
        let (progress, follow) = watch::channel(Progress { syn, held: 1, left: None, closed: false });
        let (options, follow_options) = watch::channel(SocketOptions::new(record.peer_options));
        let socket = ConnectingSocket { number: record.attempt, held: Some(record.clone()), progress, options };
        self.sockets.insert(record.id, socket);
        let held = HeldSyn::new(record, follow, outbound.answers.clone(), outbound.drain.clone());
        self.tasks.spawn(connection::run(Arc::clone(outbound), held, follow_options));
    }

    /// Notes that an attempt has left SYN_SENT.
    pub(crate) fn hold_ended(&mut self, ended: &HoldEnded) {
        if let Some(socket) = self.sockets.get_mut(&ended.id)
            && socket.number == ended.attempt
        {
            socket.held = None;
            socket.progress.send_modify(|progress| progress.left = Some(ended.tcp_state));
        }
    }

    /// Notes an option for the peer leg that was set. False if it is no socket of this table.
    pub(crate) fn changed(&self, changed: &Changed) -> bool {
        let Some(socket) = self.sockets.get(&changed.id) else { return false };
        socket.options.send_modify(|options| options.set(changed.slot, changed.value));
        true
    }

    /// Notes that a socket was closed for the last time.
    pub(crate) fn closed(&mut self, id: u64) {
        if let Some(socket) = self.sockets.remove(&id) {
            socket.closed();
        }
    }

    /// Records of connects that nobody works on any more, for a successor: bytes of [`Held`], in host byte order.
    pub(crate) fn left_over(&self) -> Vec<Vec<u8>> {
        let left = self.sockets.values().filter(|socket| socket.progress.is_closed());
        left.filter_map(|socket| socket.held.as_ref()).map(|held| held.as_bytes().to_vec()).collect()
    }

    /// Drops the sockets whose close was not heard of, because the ring buffer was full. Returns their ids.
    pub(crate) fn reconcile(&mut self) -> Vec<u64> {
        let answers = &self.outbound.answers;
        let gone: Vec<(u64, ConnectingSocket)> =
            self.sockets.extract_if(|id, _socket| answers.attempt(*id).is_none()).collect();
        gone.into_iter()
            .map(|(id, socket)| {
                socket.closed();
                id
            })
            .collect()
    }
}
