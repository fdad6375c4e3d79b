//! The TLS sockets that listen: where, with which settings, and the sockets that have come out of them.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ssa_common::{
    connection::{Connection, Text, state},
    event::Listening,
    limits::ERROR_BYTES,
    steer::{ListenKey, action},
};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    agent::Agent,
    error::Error,
    kernel::sock_diag::{self, Listed},
    netns::{Namespace, mapped, socket_addr},
    peer_leg::Wishes,
    policy::profile::Program,
    tls,
};

/// Handshakes that one listener may have in flight; one more client is reset.
const HANDSHAKES_MAX: usize = 1024;
/// How often the files of listeners are looked at.
const REFRESH: Duration = Duration::from_secs(2);
/// How long an accepted socket whose connection was reset may stay unheard of before it counts as gone:
/// the kernel does not tell of one that nobody has taken from its listener.
const UNHEARD: Duration = Duration::from_secs(5);

/// All of them.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    listeners: HashMap<u64, Arc<Listener>>,
    accepted: HashMap<u64, Accepted>,
}

/// One listener.
pub(crate) struct Listener {
    pub(crate) id: u64,
    pub(crate) context: u64,
    pub(crate) program: Program,
    pub(crate) namespace: Arc<Namespace>,
    /// One permit for each handshake in flight.
    pub(crate) handshakes: Arc<Semaphore>,
    at: SocketAddr,
    /// An IPv6 listener for every address that takes IPv4 connections as well.
    dual: bool,
}

/// A socket that has come out of a listener, or is about to.
struct Accepted {
    listener: u64,
    wishes: watch::Sender<Wishes>,
    /// Its connection is over.
    ended: bool,
}

impl Listener {
    /// What the steering program finds it under.
    fn keys(&self) -> Vec<ListenKey> {
        let key = |addr| ListenKey { addr: mapped(addr), port: self.at.port(), reserved: 0 };
        let v4 = self.dual.then(|| key(Ipv4Addr::UNSPECIFIED.into()));
        std::iter::once(key(self.at.ip())).chain(v4).collect()
    }

    /// Whether a connection to `local` is for it: 2 if it listens at that very address, 1 if at every one.
    fn fits(&self, cookie: u64, local: SocketAddr) -> u8 {
        if self.namespace.cookie != cookie || self.at.port() != local.port() {
            return 0;
        }
        if self.at.ip() == local.ip().to_canonical() {
            return 2;
        }
        let every =
            self.at.ip().is_unspecified() && (self.at.is_ipv4() == local.ip().to_canonical().is_ipv4() || self.dual);
        u8::from(every)
    }
}

impl Listeners {
    /// A socket listens, or no longer does.
    pub(crate) fn heard(&self, agent: &Arc<Agent>, listening: &Listening) {
        if listening.on == 0 {
            self.remove(agent, listening.id);
            return;
        }
        let (agent, listening) = (Arc::clone(agent), *listening);
        tokio::spawn(async move {
            if let Err(error) = begin(&agent, &listening).await {
                fail(&agent, &listening, &error).await;
            }
        });
    }

    /// The listener that a connection is for. Of several at one address the first: their sessions are one
    /// another's then.
    pub(crate) fn find(&self, cookie: u64, local: SocketAddr) -> Option<Arc<Listener>> {
        let inner = self.lock();
        let fitting = inner.listeners.values().map(|listener| (listener.fits(cookie, local), listener));
        fitting
            .filter(|(fits, _)| *fits > 0)
            .max_by_key(|(fits, listener)| (*fits, std::cmp::Reverse(listener.id)))
            .map(|(_, listener)| Arc::clone(listener))
    }

    /// A socket is about to come out of a listener.
    pub(crate) fn accept(&self, id: u64, listener: u64) -> watch::Receiver<Wishes> {
        let nothing = [ssa_common::peer_option::ABSENT; ssa_common::peer_option::SLOTS];
        let (wishes, follow) = watch::channel(Wishes::new(nothing));
        self.lock().accepted.insert(id, Accepted { listener, wishes, ended: false });
        follow
    }

    /// It did not come out after all.
    pub(crate) fn give_up(&self, agent: &Agent, id: u64, counted: bool) {
        if self.lock().accepted.remove(&id).is_some() {
            agent.maps.forget_accepted(id, counted);
            agent.chains.forget(id);
        }
    }

    /// The connection of an accepted socket is over; the program may still ask about it.
    pub(crate) async fn ended(&self, agent: &Agent, id: u64, reset_by_program: bool) {
        let listener = match self.lock().accepted.get_mut(&id) {
            Some(accepted) => {
                accepted.ended = true;
                accepted.listener
            }
            None => return,
        };
        if reset_by_program || !agent.maps.listening(listener) {
            sleep(UNHEARD).await;
            self.give_up(agent, id, true);
        }
    }

    /// The program sets an option on an accepted socket.
    pub(crate) fn modify(&self, id: u64, change: impl FnOnce(&mut Wishes)) {
        if let Some(accepted) = self.lock().accepted.get(&id) {
            accepted.wishes.send_modify(change);
        }
    }

    /// A socket was closed for the last time: a listener, an accepted one, or neither.
    pub(crate) fn closed(&self, agent: &Arc<Agent>, id: u64) {
        self.remove(agent, id);
        let removed = self.lock().accepted.remove(&id);
        if let Some(accepted) = removed {
            accepted.wishes.send_modify(|wishes| wishes.closed = true);
        }
    }

    /// A listener is gone. What has ended and was never taken from it goes with it.
    fn remove(&self, agent: &Arc<Agent>, id: u64) {
        let (listener, left): (_, Vec<u64>) = {
            let mut inner = self.lock();
            let Some(listener) = inner.listeners.remove(&id) else { return };
            let left = inner.accepted.iter().filter(|(_id, accepted)| accepted.listener == id && accepted.ended);
            (listener, left.map(|(id, _accepted)| *id).collect())
        };
        self.unsteer(&listener);
        if !left.is_empty() {
            let agent = Arc::clone(agent);
            tokio::spawn(async move {
                sleep(UNHEARD).await;
                left.into_iter().for_each(|id| agent.listeners.give_up(&agent, id, true));
            });
        }
    }

    fn unsteer(&self, gone: &Listener) {
        let kept: HashSet<ListenKey> = {
            let inner = self.lock();
            let others = inner.listeners.values().filter(|other| other.namespace.cookie == gone.namespace.cookie);
            others.flat_map(|other| other.keys()).collect()
        };
        for key in gone.keys().into_iter().filter(|key| !kept.contains(key)) {
            // Removing can't fail.
            let _removed = gone.namespace.steer(&key, None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a listener from here on, if its settings are good. Until then the guard keeps clients out.
async fn begin(agent: &Arc<Agent>, listening: &Listening) -> Result<(), Error> {
    let brought = tls::Error::Brought;
    let program = agent.policies.program(&listening.caller, true);
    // The executable of a program that has ended since can't be had; its other properties count.
    let program = program.or_else(|_gone| agent.policies.program(&listening.caller, false)).map_err(brought)?;
    let effective = agent.policies.of_program(&program).map_err(brought)?;
    agent.contexts.front(listening.context, &effective).await?;
    let namespace = loop {
        match agent.namespaces.of(&listening.caller).await {
            Ok(namespace) => break namespace,
            Err(error) => warn!(error = &error as &dyn std::error::Error, "a listener can't be served yet"),
        }
        if !agent.maps.listening(listening.id) {
            return Ok(());
        }
        sleep(Duration::from_secs(1)).await;
    };
    let at = socket_addr(&listening.at);
    let at = if listening.at.addr == [0; 16] { SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), at.port()) } else { at };
    let port = at.port();
    let listed = namespace.make(move || sock_diag::listening(port)).await.unwrap_or_default();
    let same = |one: &&Listed| one.at.ip() == at.ip();
    let dual = at.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && listed.iter().find(same).is_none_or(|one| !one.only_v6);
    let listener = Arc::new(Listener {
        id: listening.id,
        context: listening.context,
        program,
        namespace: Arc::clone(&namespace),
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        at,
        dual,
    });
    let own: HashSet<ListenKey> = {
        let mut inner = agent.listeners.lock();
        inner.listeners.insert(listening.id, Arc::clone(&listener));
        inner
            .listeners
            .values()
            .filter(|other| other.namespace.cookie == namespace.cookie)
            .flat_map(|other| other.keys())
            .collect()
    };
    // Other sockets that listen at one address of this port keep what comes there.
    for one in listed.iter().filter(|one| !one.at.ip().is_unspecified()) {
        let key = ListenKey { addr: mapped(one.at.ip()), port, reserved: 0 };
        if !own.contains(&key) {
            namespace.steer(&key, Some(action::PASS))?;
        }
    }
    for key in listener.keys() {
        namespace.steer(&key, Some(action::STEER))?;
    }
    if !agent.maps.listening(listening.id) {
        agent.listeners.remove(agent, listening.id);
        return Ok(());
    }
    info!(id = listening.id, %at, "serving a listener");
    tokio::spawn(refresh(Arc::clone(agent), listener));
    Ok(())
}

/// A listener that can't serve is ended, so that `accept` fails; `TLS_ERROR` says why.
async fn fail(agent: &Agent, listening: &Listening, error: &Error) {
    let at = socket_addr(&listening.at);
    let text = error.text(ERROR_BYTES - 1);
    warn!(id = listening.id, %at, error = text, "a listener can't be served");
    let mut answers = Connection::pending(listening.attempt);
    answers.state = state::REFUSED;
    answers.push(Text::Error, &text).expect("the text was cut to fit");
    agent.maps.publish_listener(listening.id, &answers);
    let Ok(namespace) = agent.namespaces.of(&listening.caller).await else { return };
    let at = if listening.at.addr == [0; 16] { SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), at.port()) } else { at };
    if let Err(error) = namespace.make(move || sock_diag::destroy(at)).await {
        warn!(%error, "the listener stays; nothing reaches it");
    }
}

/// Takes up files that were replaced, for as long as the listener is there.
async fn refresh(agent: Arc<Agent>, listener: Arc<Listener>) {
    let mut told = String::new();
    while agent.listeners.lock().listeners.contains_key(&listener.id) {
        tokio::select! {
            () = sleep(REFRESH) => {}
            () = agent.stop.cancelled() => return,
        }
        let Ok(effective) = agent.policies.of_program(&listener.program) else { continue };
        match agent.contexts.refresh(listener.context, &effective).await {
            Ok(true) => {
                told.clear();
                info!(id = listener.id, "new certificates are in force");
            }
            Ok(false) => {}
            Err(error) if error != told => {
                warn!(
                    id = listener.id,
                    error, "certificates were replaced by some that are no good; the old ones stay"
                );
                told = error;
            }
            Err(_same) => {}
        }
    }
}
