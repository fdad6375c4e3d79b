//! The TLS sockets that listen: where, with which settings, and the sockets that have come out of them.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use ssa_common::{
    connection::{Connection, State, Text},
    event::{ListenStatus, Listening},
    limits::ERROR_BYTES,
    rule::Traffic,
    socket::{Caller, mapped},
    steer::ListenKey,
};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    app::run::Agent,
    connection::error::Error,
    dial::socket::Wishes,
    enforce::rules::Found,
    kernel::error as kernel,
    netns::namespace::{Entrance, Namespace, Steered},
    policy::{policy::Effective, profile::Program},
    revocation::revocation::Origin,
    sys::{
        on_behalf::Owner,
        sock_diag::{self, Listed},
    },
    tls::client as tls,
};

/// Handshakes that one listener may have in flight; one more client is reset.
const HANDSHAKES_MAX: usize = 1024;
/// How often the files of listeners are looked at.
const REFRESH: Duration = Duration::from_secs(2);
/// How often a listener of a new cgroup is looked at, until the cgroup has its rules.
const SOON: Duration = Duration::from_millis(50);
/// How long an accepted socket whose connection was reset may stay unheard of before it counts as gone:
/// the kernel does not tell of one that nobody has taken from its listener.
const UNHEARD: Duration = Duration::from_secs(5);

/// All of them.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    listeners: HashMap<u64, Arc<Listener>>,
    /// By namespace (cookie) and owner.
    entrances: HashMap<(u64, Owner), Weak<Entrance>>,
    accepted: HashMap<u64, Accepted>,
}

/// One listener.
pub(crate) struct Listener {
    pub(crate) id: u64,
    pub(crate) context: u64,
    /// Who has made it, in which attached cgroup.
    pub(crate) caller: Caller,
    program: Program,
    /// It is a rule that makes it a TLS socket.
    by_rule: bool,
    pub(crate) namespace: Arc<Namespace>,
    /// From where is asked what its certificates, and its clients', tell to ask.
    pub(crate) origin: Origin,
    entrance: Arc<Entrance>,
    /// One permit for each handshake in flight.
    pub(crate) handshakes: Arc<Semaphore>,
    at: SocketAddr,
    /// An IPv6 listener for every address that takes IPv4 connections as well.
    dual: bool,
    /// Where others listen on its port, at one address each: they keep what comes there.
    passed: Mutex<HashSet<ListenKey>>,
}

/// A socket that has come out of a listener, or is about to.
struct Accepted {
    listener: u64,
    wishes: watch::Sender<Wishes>,
    /// Its connection is over.
    ended: bool,
    /// The leg's addresses: the agent's, and the program's. None before it has one.
    leg: Option<(SocketAddr, SocketAddr)>,
}

impl Listener {
    /// What is in force for its clients.
    pub(crate) fn policy(&self, agent: &Agent) -> Result<Arc<Effective>, Error> {
        policy(agent, self.by_rule, &self.caller, &self.program, self.at)
    }

    /// The rule by which it is TLS.
    pub(crate) fn rule(&self, agent: &Agent) -> Option<Found> {
        self.by_rule.then(|| agent.rules.find(self.caller.cgroup, Traffic::IN_TCP, self.at)).flatten()
    }

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
        if listening.status == ListenStatus::ENDED {
            self.remove(agent, listening.id);
            return;
        }
        let (agent, listening) = (Arc::clone(agent), *listening);
        tokio::spawn(async move {
            match begin(&agent, &listening).await {
                Ok(()) => {}
                Err(error) if listening.status == ListenStatus::BY_RULE => keep_trying(&agent, &listening, error).await,
                Err(error) if agent.maps.listening(listening.id) => fail(&agent, &listening, &error).await,
                // It was closed meanwhile, and its settings with it.
                Err(_moot) => {}
            }
        });
    }

    /// The rules are others: takes up the listeners that there are rules for now.
    pub(crate) fn look_again(&self, agent: &Arc<Agent>) {
        let by_rule =
            agent.maps.all_listening().into_iter().filter(|listening| listening.status == ListenStatus::BY_RULE);
        let serving: HashSet<u64> = self.lock().listeners.keys().copied().collect();
        by_rule
            .filter(|listening| !serving.contains(&listening.id))
            .for_each(|listening| self.heard(agent, &listening));
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
        self.lock().accepted.insert(id, Accepted { listener, wishes, ended: false, leg: None });
        follow
    }

    /// Its leg has these addresses: the agent's, and the program's.
    pub(crate) fn has_leg(&self, id: u64, from: SocketAddr, to: SocketAddr) {
        if let Some(accepted) = self.lock().accepted.get_mut(&id) {
            accepted.leg = Some((from, to));
        }
    }

    /// It did not come out after all.
    pub(crate) fn give_up(&self, agent: &Agent, id: u64) {
        if self.lock().accepted.remove(&id).is_some() {
            agent.maps.forget_accepted(id);
            agent.chains.forget(id);
        }
    }

    /// Gives up an accepted socket that is unheard of, unless the kernel still has it: then a program has.
    async fn give_up_if_gone(&self, agent: &Agent, namespace: &Namespace, id: u64) {
        let leg = self.lock().accepted.get(&id).and_then(|accepted| accepted.leg);
        if let Some((from, to)) = leg
            && namespace.make(move || sock_diag::exists(to, from)).await.unwrap_or(true)
        {
            return;
        }
        self.give_up(agent, id);
    }

    /// The connection of an accepted socket is over; the program may still ask about it.
    pub(crate) async fn ended(&self, agent: &Agent, namespace: &Namespace, id: u64, reset_by_program: bool) {
        let listener = match self.lock().accepted.get_mut(&id) {
            Some(accepted) => {
                accepted.ended = true;
                accepted.listener
            }
            None => return,
        };
        if reset_by_program || !agent.maps.listening(listener) {
            sleep(UNHEARD).await;
            self.give_up_if_gone(agent, namespace, id).await;
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

    /// Whether a listener is served.
    fn serves(&self, id: u64) -> bool {
        self.lock().listeners.contains_key(&id)
    }

    /// Waits until all that there are are served, for a while: some can't be.
    pub(crate) async fn settled(&self, agent: &Agent) {
        const LIMIT: Duration = Duration::from_secs(5);
        let all = agent.maps.all_listening();
        let served = async {
            while !all.iter().all(|listening| self.serves(listening.id) || !agent.maps.listening(listening.id)) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _some_are_not = tokio::time::timeout(LIMIT, served).await;
    }

    /// Another agent answers their clients from here on. Who has come before is still served.
    pub(crate) fn retire(&self) {
        let listeners: Vec<Arc<Listener>> = self.lock().listeners.values().map(Arc::clone).collect();
        for listener in listeners {
            let passed = listener.passed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for key in listener.keys().into_iter().chain(passed) {
                // Removing can't fail.
                let _done = listener.namespace.steer(&key, Steered::Nobody);
            }
        }
    }

    /// Accepted sockets whose close was not heard of.
    pub(crate) fn reconcile(&self, agent: &Agent) {
        let mut inner = self.lock();
        let gone =
            inner.accepted.extract_if(|id, accepted| accepted.leg.is_some() && agent.maps.attempt(*id).is_none());
        gone.for_each(|(_id, accepted)| accepted.wishes.send_modify(|wishes| wishes.closed = true));
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
                for id in left {
                    agent.listeners.give_up_if_gone(&agent, &listener.namespace, id).await;
                }
            });
        }
    }

    /// What other sockets have at one address of a listener's port is left to them, and no longer than they
    /// are there.
    fn pass_others(&self, listener: &Listener, listed: &[Listed]) -> Result<(), kernel::Error> {
        let own: HashSet<ListenKey> = {
            let inner = self.lock();
            let same = inner.listeners.values().filter(|other| other.namespace.cookie == listener.namespace.cookie);
            same.flat_map(|other| other.keys()).collect()
        };
        let there = listed.iter().filter(|one| !one.at.ip().is_unspecified());
        let there = there.map(|one| ListenKey { addr: mapped(one.at.ip()), port: listener.at.port(), reserved: 0 });
        let now: HashSet<ListenKey> = there.filter(|key| !own.contains(key)).collect();
        let mut passed = listener.passed.lock().unwrap_or_else(PoisonError::into_inner);
        for key in now.difference(&passed) {
            listener.namespace.steer(key, Steered::Other)?;
        }
        for key in passed.difference(&now).filter(|key| !own.contains(key)) {
            listener.namespace.steer(key, Steered::Nobody)?;
        }
        *passed = now;
        Ok(())
    }

    fn unsteer(&self, gone: &Listener) {
        let kept: HashMap<ListenKey, Arc<Entrance>> = {
            let inner = self.lock();
            let others = inner.listeners.values().filter(|other| other.namespace.cookie == gone.namespace.cookie);
            others.flat_map(|other| other.keys().into_iter().map(|key| (key, Arc::clone(&other.entrance)))).collect()
        };
        let passed = gone.passed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for key in gone.keys().into_iter().chain(passed) {
            let to = kept.get(&key).map_or(Steered::Nobody, |entrance| Steered::Agent(entrance));
            // Removing can't fail, nor can changing what is there.
            let _done = gone.namespace.steer(&key, to);
        }
    }

    /// Where clients of an owner's listeners come in, made for the first of them.
    async fn entrance(&self, namespace: &Arc<Namespace>, owner: Owner) -> Result<Arc<Entrance>, Error> {
        let key = (namespace.cookie, owner);
        let there = |inner: &Inner| inner.entrances.get(&key).and_then(Weak::upgrade);
        if let Some(entrance) = there(&self.lock()) {
            return Ok(entrance);
        }
        let made = Arc::new(namespace.entrance(owner).await.map_err(Error::Entrance)?);
        let mut inner = self.lock();
        // Another listener may have been quicker.
        if let Some(entrance) = there(&inner) {
            return Ok(entrance);
        }
        inner.entrances.retain(|_key, entrance| entrance.strong_count() > 0);
        inner.entrances.insert(key, Arc::downgrade(&made));
        Ok(made)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is in force for the clients of a listener. None is, if the rule is gone by which it was TLS.
fn policy(
    agent: &Agent,
    by_rule: bool,
    caller: &Caller,
    program: &Program,
    at: SocketAddr,
) -> Result<Arc<Effective>, Error> {
    let policy = if by_rule {
        let found = agent.rules.find(caller.cgroup, Traffic::IN_TCP, at).ok_or(Error::NoRule)?;
        agent.policies.of_ruled(program, &found)
    } else {
        agent.policies.of_program(program)
    };
    Ok(policy.map_err(tls::Error::Brought)?)
}

/// A program that knows nothing of TLS is not to lose its listener: nothing reaches it until it can be served.
async fn keep_trying(agent: &Arc<Agent>, listening: &Listening, mut error: Error) {
    let at = SocketAddr::from(listening.at);
    let mut told = String::new();
    loop {
        let unknown = !agent.rules.knows(listening.caller.cgroup);
        if matches!(error, Error::NoRule) && !unknown {
            // The rules say that it is plain: it stays so until they change.
            return;
        }
        let text = error.text(ERROR_BYTES);
        if text != told && !unknown {
            warn!(id = listening.id, %at, error = text, "a listener can't be served, and nothing reaches it; trying again");
            told = text;
        }
        tokio::select! {
            () = sleep(if unknown { SOON } else { REFRESH }) => {}
            () = agent.stop.cancelled() => return,
        }
        if !agent.maps.listening(listening.id) {
            return;
        }
        match begin(agent, listening).await {
            Ok(()) => return,
            Err(again) => error = again,
        }
    }
}

/// Serves a listener from here on, if its settings are good. Until then the guard keeps clients out.
async fn begin(agent: &Arc<Agent>, listening: &Listening) -> Result<(), Error> {
    if agent.listeners.lock().listeners.contains_key(&listening.id) {
        return Ok(());
    }
    let program = agent.policies.program(&listening.caller).map_err(Error::Executable)?;
    let by_rule = listening.status == ListenStatus::BY_RULE;
    let at = SocketAddr::from(listening.at);
    let at = if listening.at.addr == [0; 16] { SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), at.port()) } else { at };
    let effective = policy(agent, by_rule, &listening.caller, &program, at)?;
    let front = agent.contexts.front(listening.context, &effective).await?;
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
    let port = at.port();
    let caller = &listening.caller;
    let owner = Owner { cgroups: [caller.cgroup; 2], uid: caller.uid, gid: caller.gid };
    let listed = namespace.make(move || sock_diag::listening(port)).await.unwrap_or_default();
    let same = |one: &&Listed| one.at.ip() == at.ip();
    let dual = at.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && listed.iter().find(same).is_none_or(|one| !one.only_v6);
    let origin = Origin::program(Arc::clone(&namespace), *caller, owner);
    // Who has called listen may be gone, or another, when there is something to ask.
    origin.prepare().await;
    let listener = Arc::new(Listener {
        id: listening.id,
        context: listening.context,
        caller: listening.caller,
        program,
        by_rule,
        namespace: Arc::clone(&namespace),
        origin,
        entrance: agent.listeners.entrance(&namespace, owner).await?,
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        at,
        dual,
        passed: Mutex::default(),
    });
    front.keep_stapled(&agent.revocation, &effective.policy.revocation, || listener.origin.clone());
    agent.listeners.lock().listeners.insert(listening.id, Arc::clone(&listener));
    agent.listeners.pass_others(&listener, &listed)?;
    for key in listener.keys() {
        namespace.steer(&key, Steered::Agent(&listener.entrance))?;
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
    let at = SocketAddr::from(listening.at);
    let text = error.text(ERROR_BYTES - 1);
    warn!(id = listening.id, %at, error = text, "a listener can't be served");
    let mut answers = Connection::pending(listening.attempt);
    answers.state = State::REFUSED;
    answers.push_cut(Text::Error, &text);
    agent.maps.publish_listener(listening.id, &answers);
    let Ok(namespace) = agent.namespaces.of(&listening.caller).await else { return };
    let (family, cookie) = (u8::try_from(listening.family).unwrap_or(0), listening.cookie);
    if let Err(error) = namespace.make(move || sock_diag::destroy(family, cookie)).await {
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
        if listener.at.ip().is_unspecified() {
            let port = listener.at.port();
            if let Ok(listed) = listener.namespace.make(move || sock_diag::listening(port)).await {
                // Full: as before.
                let _full = agent.listeners.pass_others(&listener, &listed);
            }
        }
        let effective = match listener.policy(&agent) {
            Ok(effective) => effective,
            Err(Error::NoRule) => {
                info!(id = listener.id, at = %listener.at, "no rule is for the listener any more");
                return agent.listeners.remove(&agent, listener.id);
            }
            Err(_later) => continue,
        };
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
