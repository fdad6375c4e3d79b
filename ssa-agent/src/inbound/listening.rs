//! Life of a listener from listen(2) to its last close: begins to serve it, tries again, takes up new files, gives it
//! up.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use ssa_common::{
    event::{ListenStatus, Listening},
    limits::ERROR_BYTES,
};
use tokio::{sync::Semaphore, time::sleep};
use tracing::{info, warn};

use super::{
    inbound::Inbound,
    listener::{ListenAddr, Listener},
};
use crate::{
    connection::{Attempt, Error},
    enforce::{self, Question, Standing},
    netns::Namespace,
    policy::Direction,
    revocation::Origin,
    sys::{
        on_behalf::SocketOwner,
        sock_diag::{self, ListeningSocket},
    },
    telemetry::LogOnce,
};

/// Most handshakes that one listener may have in flight; one more client is reset.
const HANDSHAKES_MAX: usize = 1024;
/// Period in which the files of listeners are looked at.
const REFRESH: Duration = Duration::from_secs(2);
/// Time for which an accepted socket whose connection was reset may stay unheard of before it counts as gone: the
/// kernel does not tell of one that nobody has taken from its listener.
const UNHEARD: Duration = Duration::from_secs(5);

impl Inbound {
    /// Notes that a socket listens, or no longer does. A listener that can't be served is ended; by a rule, it is tried
    /// again.
    pub(crate) fn listening(self: &Arc<Self>, listening: &Listening) {
        if listening.status == ListenStatus::ENDED {
            self.end(listening.id);
            return;
        }
        let (inbound, listening) = (Arc::clone(self), *listening);
        tokio::spawn(async move {
            if let Err(error) = begin(&inbound, &listening).await {
                keep_trying(&inbound, listening, error).await;
            }
        });
    }

    /// Takes up all sockets that listen, for an agent that begins.
    pub(crate) fn listen_all(self: &Arc<Self>) {
        self.maps.all_listening().iter().for_each(|listening| self.listening(listening));
    }

    /// Takes up the listeners that rules make TLS sockets, and that were not before. Called when the rules have
    /// changed.
    pub(crate) fn reconcile_rules(self: &Arc<Self>) {
        let serving: HashSet<u64> = self.listeners.ids();
        let all = self.maps.all_listening();
        let by_rule = all.iter().filter(|listening| listening.status == ListenStatus::BY_RULE);
        by_rule.filter(|one| !serving.contains(&one.id)).for_each(|listening| self.listening(listening));
    }

    /// Notes that a socket was closed for the last time: a listener, an accepted one, or neither.
    pub(crate) fn closed(self: &Arc<Self>, id: u64) {
        self.end(id);
        self.accepted.closed(id);
    }

    /// Takes out accepted sockets whose close was missed, as the ring buffer was full.
    pub(crate) fn reconcile(&self) {
        self.accepted.reconcile(|id| self.answers.attempt(id).is_some());
    }

    /// Waits until all that listen are served, at most 5 s: some can't be.
    pub(crate) async fn settled(&self) {
        const LIMIT: Duration = Duration::from_secs(5);
        let all = self.maps.all_listening();
        let is_settled = |one: &Listening| self.listeners.serves(one.id) || !self.maps.listening(one.id);
        let served = async {
            while !all.iter().all(is_settled) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _some_are_not = tokio::time::timeout(LIMIT, served).await;
    }

    /// Ends a listener that is gone. Sockets that have ended and were never taken from it go with it.
    fn end(self: &Arc<Self>, id: u64) {
        let Some(listener) = self.listeners.remove(id) else { return };
        self.listeners.unsteer(&listener);
        let left = self.accepted.ended_of(id);
        if !left.is_empty() {
            let inbound = Arc::clone(self);
            tokio::spawn(async move {
                sleep(UNHEARD).await;
                for id in left {
                    inbound.discard_if_gone(&listener.namespace, id).await;
                }
            });
        }
    }

    /// Discards an accepted socket that was announced but never reached accept(2): its answers, chain and settings.
    pub(super) fn discard(&self, id: u64) {
        if self.accepted.remove(id) {
            self.answers.forget_accepted(id);
            self.options.forget_accepted(id);
        }
    }

    /// Discards an accepted socket that is unheard of, unless the kernel still has it: then an application has.
    async fn discard_if_gone(&self, namespace: &Namespace, id: u64) {
        if let Some((from, to)) = self.accepted.leg(id)
            && namespace.make(move || sock_diag::exists(to, from)).await.unwrap_or(true)
        {
            return;
        }
        self.discard(id);
    }

    /// Notes that the connection of an accepted socket is over; the application may still ask about it. Waits for 5 s
    /// where the socket may never have reached an application.
    pub(super) async fn connection_ended(&self, namespace: &Namespace, id: u64, reset_by_application: bool) {
        let Some(listener) = self.accepted.ended(id) else { return };
        if reset_by_application || !self.maps.listening(listener) {
            sleep(UNHEARD).await;
            self.discard_if_gone(namespace, id).await;
        }
    }
}

/// Ends a listener that can't be served, or tries until it can, if a rule makes it a TLS socket: an application that
/// knows nothing of TLS is not to lose it. Nothing reaches it until then.
async fn keep_trying(inbound: &Arc<Inbound>, listening: Listening, mut error: Error) {
    let at = SocketAddr::from(listening.at);
    let mut trouble = LogOnce::default();
    loop {
        if matches!(error, Error::Enforce(enforce::Error::NoRule)) {
            // The rules say that it is plain: it stays so until they change.
            if let Ok(namespace) = inbound.namespaces.of(&listening.caller).await {
                inbound.send_parked(listening.id, &namespace);
            }
            return;
        }
        let denied = matches!(error, Error::Enforce(enforce::Error::Denied(_)));
        if denied || listening.status != ListenStatus::BY_RULE {
            if inbound.maps.listening(listening.id) {
                fail(inbound, &listening, &error).await;
            }
            // Or it was closed meanwhile, and its settings with it.
            return;
        }
        let text = error.text(ERROR_BYTES);
        if trouble.is_new(&text) {
            warn!(
                id = listening.id,
                %at,
                error = text,
                "a listener can't be served, and nothing reaches it; trying again"
            );
        }
        tokio::select! {
            () = sleep(REFRESH) => {}
            () = inbound.drain.stopped() => return,
        }
        if !inbound.maps.listening(listening.id) {
            return;
        }
        match begin(inbound, &listening).await {
            Ok(()) => return,
            Err(again) => error = again,
        }
    }
}

/// Serves a listener from here on, if its settings are good. Until then the guard keeps clients out.
async fn begin(inbound: &Arc<Inbound>, listening: &Listening) -> Result<(), Error> {
    if inbound.listeners.serves(listening.id) {
        return Ok(());
    }
    let mut caller = listening.caller;
    match inbound.enforcement.settle(&caller).await {
        Standing::Served(service) => caller.service = service,
        Standing::Nobody if listening.status == ListenStatus::BY_RULE => {}
        Standing::Nobody => return Err(enforce::Error::NotServed.into()),
        Standing::Unknown => return Err(enforce::Error::Undecided.into()),
    }
    let caller = &caller;
    let application = inbound.enforcement.policies.application(caller)?;
    let by_rule = listening.status == ListenStatus::BY_RULE;
    let at = SocketAddr::from(listening.at);
    let at = if listening.at.addr == [0; 16] { SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), at.port()) } else { at };
    let question = Question {
        direction: Direction::In,
        by_rule,
        caller,
        application: Some(&application),
        at,
        socket_cgroup: caller.cgroup,
        hostname: "",
    };
    let (_labels, decision) = inbound.enforcement.decide(&question);
    let effective = decision?.effective;
    let settings = inbound.options.server(listening.context, &effective).await?;
    let namespace = loop {
        match inbound.namespaces.of(caller).await {
            Ok(namespace) => break namespace,
            Err(error) => warn!(error = &error as &dyn std::error::Error, "a listener can't be served yet"),
        }
        if !inbound.maps.listening(listening.id) {
            return Ok(());
        }
        sleep(Duration::from_secs(1)).await;
    };
    let port = at.port();
    let owner = SocketOwner { cgroups: [caller.cgroup; 2], uid: caller.uid, gid: caller.gid };
    let listed = namespace.make(move || sock_diag::listening(port)).await.unwrap_or_default();
    let same = |one: &&ListeningSocket| one.at.ip() == at.ip();
    let dual = at.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && listed.iter().find(same).is_none_or(|one| !one.only_v6);
    let origin = Origin::application(Arc::clone(&namespace), *caller, owner);
    // Who has called listen may be gone, or another, when there is something to ask.
    origin.prepare().await;
    let listener = Arc::new(Listener {
        id: listening.id,
        context: listening.context,
        caller: *caller,
        application,
        by_rule,
        client_listener: inbound.listeners.client_listener(&namespace, owner).await?,
        addr: ListenAddr { netns: namespace.cookie, at, dual },
        namespace,
        origin,
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        passed: Mutex::default(),
    });
    if let Some(stapling) = &settings.stapling {
        stapling.keep_fresh(&effective.policy.revocation, || listener.origin.clone());
    }
    inbound.listeners.insert(Arc::clone(&listener));
    inbound.listeners.pass_others(&listener, &listed)?;
    inbound.listeners.steer(&listener)?;
    if !inbound.maps.listening(listening.id) {
        inbound.end(listening.id);
        return Ok(());
    }
    inbound.send_parked(listening.id, &listener.namespace);
    info!(id = listening.id, %at, "serving a listener");
    tokio::spawn(refresh(Arc::clone(inbound), listener));
    Ok(())
}

/// Ends a listener that can't be served, so that `accept` fails; `TLS_ERROR` says why.
async fn fail(inbound: &Inbound, listening: &Listening, error: &Error) {
    let at = SocketAddr::from(listening.at);
    let text = error.text(ERROR_BYTES - 1);
    warn!(id = listening.id, %at, error = text, "a listener can't be served");
    let attempt = Attempt { id: listening.id, number: listening.attempt };
    inbound.answers.listener_failed(attempt, &text, || inbound.maps.listening(listening.id));
    let Ok(namespace) = inbound.namespaces.of(&listening.caller).await else { return };
    let (family, cookie) = (u8::try_from(listening.family).unwrap_or(0), listening.cookie);
    if let Err(error) = namespace.make(move || sock_diag::destroy(family, cookie)).await {
        warn!(%error, "the listener stays; nothing reaches it");
    }
}

/// Takes up files that were replaced, for as long as the listener is there.
async fn refresh(inbound: Arc<Inbound>, listener: Arc<Listener>) {
    let mut trouble = LogOnce::default();
    while inbound.listeners.serves(listener.id) {
        tokio::select! {
            () = sleep(REFRESH) => {}
            () = inbound.drain.stopped() => return,
        }
        if listener.addr.at.ip().is_unspecified() {
            let port = listener.addr.at.port();
            if let Ok(listed) = listener.namespace.make(move || sock_diag::listening(port)).await {
                // Full: as before.
                let _full = inbound.listeners.pass_others(&listener, &listed);
            }
        }
        let (_labels, decision) = inbound.enforcement.decide(&listener.question());
        let effective = match decision {
            Ok(decision) => decision.effective,
            Err(enforce::Error::NoRule) => {
                info!(id = listener.id, at = %listener.addr.at, "no rule is for the listener any more");
                return inbound.end(listener.id);
            }
            Err(_later) => continue,
        };
        match inbound.options.refresh(listener.context, &effective).await {
            Ok(true) => {
                trouble.over();
                info!(id = listener.id, "new certificates are in force");
            }
            Ok(false) => {}
            Err(error) if trouble.is_new(&error) => {
                let id = listener.id;
                warn!(id, error, "certificates were replaced by some that are no good; the old ones stay");
            }
            Err(_same) => {}
        }
    }
}
