//! One held connect as one function: dial, shake hands, verdict, relay.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ssa_common::{
    certificate::Digest,
    connection::{Connection, Scalar, State, Text},
    event::Held,
    limits::ERROR_BYTES,
    phase::TcpState,
    rule::Traffic,
    socket::Endpoint,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::watch,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info_span, warn};

use super::{
    passthrough::{self as own_tls, Later},
    starttls,
};
use crate::{
    app::run::Agent,
    connection::{
        error::Error,
        table::{Direction, Which},
    },
    dial::{
        connect as dial,
        socket::{self as peer_leg, Setup, Wishes},
    },
    enforce::{limits::Permit, rules::Found},
    kernel::packet::Syn,
    netns::namespace::{self as netns, Namespace, Raw},
    options::store::Settings,
    policy::rule::Mode,
    relay::{app_stream::AppStream, peer::Reached, relay},
    revocation::revocation::{self, Inquiry, Origin},
    sys::on_behalf::Owner,
    tls::{client as tls, server_name::ServerName},
};

/// What the kernel says of an attempt while it is worked on.
#[derive(Clone)]
pub(crate) struct Progress {
    /// The SYN as it was held last.
    pub(crate) syn: Arc<Syn>,
    /// How often it was held.
    pub(crate) held: u32,
    /// The kernel state that the socket went to from SYN_SENT.
    pub(crate) left: Option<TcpState>,
    /// The application has closed the socket.
    pub(crate) closed: bool,
}

impl Progress {
    fn is_over(&self) -> bool {
        self.closed || self.left.is_some()
    }
}

/// Drives one attempt from its first held SYN to the end of its relay.
pub(crate) async fn run(
    agent: Arc<Agent>,
    held: Box<Held>,
    progress: watch::Receiver<Progress>,
    wishes: watch::Receiver<Wishes>,
) {
    let to = Target::of(&agent, &held);
    let rule = to.rule.as_ref().map(|found| found.rule().name.get_ref().as_str());
    let (orig_dst, server_name) = (to.addr, to.name());
    let span = info_span!("connect", id = held.id, attempt = held.attempt, %orig_dst, server_name, rule);
    attempt(&agent, &held, &to, progress, wishes).instrument(span).await;
}

/// Where a program connects to, and whom it means.
struct Target {
    addr: SocketAddr,
    /// The name that the peer must prove to have: the program's, or the rule's. Or why there is none.
    name: Result<String, String>,
    /// If it is a rule that asks for TLS.
    rule: Option<Found>,
}

impl Target {
    fn of(agent: &Agent, held: &Held) -> Self {
        let addr = SocketAddr::from(held.orig_dst);
        if held.by_rule == 0 {
            return Self { addr, name: Ok(held.hostname.as_str().unwrap_or_default().to_owned()), rule: None };
        }
        let rule = agent.rules.find(held.caller.cgroup, Traffic::OUT_TCP, addr);
        let resolved = || agent.names.of(held.cgroup, addr.ip());
        let name = rule.as_ref().map_or(Err(String::new()), |found| found.rule().name(resolved));
        Self { addr, name, rule }
    }

    /// For people.
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

async fn attempt(
    agent: &Agent,
    held: &Held,
    to: &Target,
    mut progress: watch::Receiver<Progress>,
    wishes: watch::Receiver<Wishes>,
) {
    // Until the program has its connection, another agent may begin anew.
    let (retiring, resuming) = (agent.retiring(), agent.resuming.token());
    let began = Instant::now();
    let stop = agent.services.stop(held.caller.service);
    let namespace = tokio::select! {
        () = retiring.cancelled() => return,
        namespace = namespace(agent, held, &mut progress) => namespace,
    };
    let namespace = match namespace {
        Some(Ok(namespace)) => namespace,
        Some(Err(error)) => {
            match Raw::of(held.caller).await {
                Ok(raw) => refuse(agent, held, to, &raw, &Error::Namespace(error), progress, &retiring).await,
                Err(error) => warn!(error = &error as &dyn std::error::Error, "a held connect can't be refused"),
            }
            return;
        }
        None => return,
    };
    let mut over = progress.clone();
    let secured = tokio::select! {
        biased;
        _over = over.wait_for(Progress::is_over) => {
            debug!("given up by the application");
            return;
        }
        () = stop.cancelled() => Err(Error::Stopping),
        () = retiring.cancelled() => {
            debug!("left to the agent that takes over");
            return;
        }
        secured = admit_and_secure(agent, held, to, &namespace) => secured,
    };
    let leg = match secured {
        Ok(leg) => {
            let reached = &leg.reached;
            debug!(elapsed = ?began.elapsed(), version = reached.version(), resumed = reached.resumed(), "reached");
            resume(agent, held, to.addr, &namespace, reached, progress.clone()).await.map(|done| (done, leg))
        }
        Err(error) => Err(error),
    };
    match leg {
        Ok((None, ..)) => debug!("given up by the application"),
        Ok((Some((app, mut answers)), leg)) => {
            drop(resuming);
            let PeerLeg { reached, idle, permit: _permit, greeting, later, inquiry } = leg;
            let inquiry = inquiry.as_ref();
            let decided = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                decided = own_tls::decide(reached, later, inquiry, &app) => decided,
            };
            let mut secured = match decided {
                Ok(secured) => secured,
                Err(error) => return hang_up(agent, held, to, answers, &error),
            };
            if answers.scalars[Scalar::Version as usize] != secured.version() {
                match agent.chains.publish(held.id, secured.chain()) {
                    Ok(chain) => answers = self::answers(held, to.addr, &secured, chain),
                    Err(error) => return hang_up(agent, held, to, answers, &error.into()),
                }
                agent.maps.publish(held.id, &answers);
            }
            let entry = agent.connections.open(&which(agent, held, to, None), &secured, began);
            let news = peer_leg::news(wishes, held.peer_options);
            // `TLS_ERROR` says why before the reset arrives.
            let before_reset = |error: &relay::Error| {
                answers.push_cut(Text::Error, &relay_text(error));
                agent.maps.publish(held.id, &answers);
            };
            let relayed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                relayed = async {
                    let app = match &to.rule {
                        Some(found) => begin_by_rule(found, app, &greeting, &mut secured).await?,
                        None => AppStream::new(app),
                    };
                    let chain = if inquiry.is_some() { secured.chain().to_vec() } else { Vec::new() };
                    let revoked = Inquiry::watch(inquiry, &chain, |how| entry.revoked(how));
                    secured.relay(app, news, before_reset, &entry.copied, idle, revoked).await
                } => relayed,
            };
            match relayed {
                Ok(()) => entry.closed(),
                Err(error) => entry.reset(relay_text(&error)),
            }
        }
        Err(error) => refuse(agent, held, to, namespace.raw(), &error, progress, &retiring).await,
    }
}

/// What is said before bytes are relayed, where a protocol begins in plaintext.
async fn begin_by_rule(
    found: &Found,
    mut app: TcpStream,
    greeting: &[u8],
    reached: &mut Reached,
) -> Result<AppStream, relay::Error> {
    let secured = match reached {
        Reached::Tls(secured) => secured,
        Reached::Plain(_) => return Ok(AppStream::new(app)),
        Reached::Own(_) => return Ok(AppStream::of_tls(app)),
    };
    if let Some(protocol) = found.rule().starttls() {
        let first = starttls::settle(protocol, &mut app, greeting).await.map_err(relay::Error::Application)?;
        secured.stream.write_all(&first).await.map_err(relay::Error::Peer)?;
    }
    Ok(AppStream::without_tls(app))
}

fn which<'a>(agent: &Agent, held: &'a Held, to: &'a Target, peer: Option<SocketAddr>) -> Which<'a> {
    Which {
        id: held.id,
        direction: Direction::Out,
        caller: &held.caller,
        service: agent.services.name(held.caller.service),
        name: to.name(),
        rule: to.rule.as_ref().map(|found| found.rule().name.get_ref().as_str()),
        peer,
    }
}

/// A peer that the program's connect may be answered for.
struct PeerLeg {
    reached: Reached,
    /// How long it may be idle; zero for as long as it likes.
    idle: Duration,
    /// Counts the connection; none before it was counted.
    permit: Option<Permit>,
    /// What the program is to hear before anything else.
    greeting: Vec<u8>,
    /// A handshake that waits for what the program says first; then nobody was verified yet.
    later: Option<Later>,
    /// Whether the peer's certificates are revoked, if that is asked.
    inquiry: Option<Inquiry>,
}

impl PeerLeg {
    fn new(reached: Reached, idle: Duration) -> Self {
        Self { reached, idle, permit: None, greeting: Vec::new(), later: None, inquiry: None }
    }
}

/// Ends a connection that the program has already; why is said first.
fn hang_up(agent: &Agent, held: &Held, to: &Target, mut answers: Connection, error: &Error) {
    let text = error.text(ERROR_BYTES - 1);
    answers.push_cut(Text::Error, &text);
    agent.maps.publish(held.id, &answers);
    agent.connections.refused(&which(agent, held, to, Some(to.addr)), error, &text);
}

/// As [`secure`], if there may be one more connection.
async fn admit_and_secure(
    agent: &Agent,
    held: &Held,
    to: &Target,
    namespace: &Arc<Namespace>,
) -> Result<PeerLeg, Error> {
    let permit = agent.limits.connection(&held.caller)?;
    let _handshake = agent.limits.handshake()?;
    let leg = secure(agent, held, to, namespace).await?;
    Ok(PeerLeg { permit: Some(permit), ..leg })
}

/// The peer, verified, and what the program is to hear from it before anything else.
async fn secure(agent: &Agent, held: &Held, target: &Target, namespace: &Arc<Namespace>) -> Result<PeerLeg, Error> {
    let orig_dst = target.addr;
    if held.by_rule != 0 && target.rule.is_none() {
        return Err(Error::NoRule);
    }
    let name = target.name.clone().map_err(tls::Error::Brought)?;
    let name = ServerName::parse(&name).map_err(tls::Error::from)?;
    let program = agent.policies.program(&held.caller).map_err(Error::Executable)?;
    let policy = match &target.rule {
        Some(found) => agent.policies.of_ruled(&program, found),
        None => agent.policies.of_program(&program),
    };
    let policy = policy.map_err(tls::Error::Brought)?;
    let connect_limit = policy.policy.time.connect_seconds.get();
    let handshake_limit = policy.policy.time.handshake_seconds.get();
    let idle = Duration::from_secs(policy.policy.time.idle_seconds);
    let owner = Owner { cgroups: [held.cgroup, held.caller.cgroup], uid: held.caller.uid, gid: held.caller.gid };
    let settings = match timeout(connect_limit, agent.contexts.settings(held.context, &policy)).await {
        Ok(settings) => settings?,
        Err(_elapsed) => return Err(Error::ReadTimeout { limit: connect_limit }),
    };
    let setup = Setup { owner, bound: held.bound, interface: held.interface, options: held.peer_options };
    let settings = match &target.rule {
        // The socket's context is as new as the socket.
        Some(_) => Settings { sessions: settings.sessions.map(|_own| Arc::clone(&policy.sessions)), ..settings },
        None => settings,
    };
    let inquiry = settings
        .checks
        .clone()
        .map(|checks| agent.revocation.inquiry(checks, Origin::program(Arc::clone(namespace), held.caller, owner)));
    let stream = if orig_dst.ip().is_unspecified() && target.rule.is_none() {
        dial::name(namespace, held, orig_dst.port(), setup, connect_limit).await?
    } else {
        dial::address(namespace, orig_dst, setup, connect_limit).await?
    };
    if target.rule.as_ref().is_some_and(|found| found.rule().passes_own_tls()) {
        let later = Later { settings, name, to: orig_dst, limit: handshake_limit };
        return Ok(PeerLeg { later: Some(later), inquiry, ..PeerLeg::new(Reached::Own(stream), idle) });
    }
    let starttls = target.rule.as_ref().and_then(|found| found.rule().starttls());
    let until = revocation::deadline(handshake_limit);
    let shake_hands = async {
        let mut stream = stream;
        let greeting = match starttls {
            Some(protocol) => starttls::ask(protocol, &mut stream).await,
            None => Ok(Vec::new()),
        };
        let greeting = greeting.map_err(|error| tls::Error::NoTls(error.to_string()))?;
        let secured = tls::connect(&settings, inquiry.as_ref(), stream, &name, until).await?;
        Ok(PeerLeg { greeting, inquiry, ..PeerLeg::new(Reached::Tls(Box::new(secured)), idle) })
    };
    let shaken = match timeout(handshake_limit, shake_hands).await {
        Ok(shaken) => shaken.map_err(Error::Tls),
        Err(_elapsed) => Err(Error::HandshakeTimeout { to: orig_dst, limit: handshake_limit }),
    };
    match (shaken, &target.rule) {
        (Err(error @ (Error::Tls(tls::Error::NoTls(_)) | Error::HandshakeTimeout { .. })), Some(found))
            if found.rule().mode() == Mode::Prefer =>
        {
            let rule = found.rule().name.get_ref();
            warn!(target: "access", rule, peer = %orig_dst, error = error.text(ERROR_BYTES), "plaintext: the peer speaks no TLS");
            let stream = dial::address(namespace, orig_dst, setup, connect_limit).await?;
            Ok(PeerLeg::new(Reached::Plain(stream), idle))
        }
        (shaken, _) => shaken,
    }
}

/// The namespace of the program; an error if it can't be served. None if the application has given up before that.
async fn namespace(
    agent: &Agent,
    held: &Held,
    progress: &mut watch::Receiver<Progress>,
) -> Option<Result<Arc<Namespace>, netns::Error>> {
    /// With each SYN once: for 7 s.
    const TRIES: u32 = 4;
    let stop = agent.services.stop(held.caller.service);
    let mut tries = 0;
    loop {
        tries += 1;
        match agent.namespaces.of(&held.caller).await {
            Ok(namespace) => return Some(Ok(namespace)),
            Err(error) if tries == TRIES => return Some(Err(error)),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "a held connect can't be answered yet"),
        }
        tokio::select! {
            changed = progress.changed() => changed.ok()?,
            () = stop.cancelled() => return None,
        }
        if progress.borrow().is_over() {
            return None;
        }
    }
}

/// What the program can ask of its connection.
fn answers(held: &Held, orig_dst: SocketAddr, secured: &Reached, chain: Digest) -> Connection {
    let mut answers = Connection::pending(held.attempt);
    answers.state = State::SECURED;
    answers.peer = peer_of(secured, orig_dst).into();
    answers.local = secured.tcp().local_addr().map(Endpoint::from).unwrap_or_default();
    answers.scalars[Scalar::Version as usize] = secured.version();
    answers.scalars[Scalar::Resumed as usize] = i64::from(secured.resumed());
    answers.scalars[Scalar::CertificateCount as usize] = i64::try_from(secured.chain().len()).unwrap_or(i64::MAX);
    answers.chain = chain;
    answers.sha256 = secured.fingerprint();
    answers.push_cut(Text::Cipher, secured.cipher());
    if let Some(protocol) = secured.alpn() {
        answers.push_cut(Text::Alpn, protocol);
    }
    answers.push_cut(Text::Identity, &secured.identity());
    answers
}

pub(crate) fn relay_text(error: &relay::Error) -> String {
    crate::connection::error::chain(error).chars().filter(char::is_ascii).take(ERROR_BYTES - 1).collect()
}

/// Publishes the answers, lets the SYN pass, and waits for the application leg. None if the
/// application has given up.
async fn resume(
    agent: &Agent,
    held: &Held,
    orig_dst: SocketAddr,
    namespace: &Arc<Namespace>,
    secured: &Reached,
    mut progress: watch::Receiver<Progress>,
) -> Result<Option<(TcpStream, Connection)>, Error> {
    let chain = agent.chains.publish(held.id, secured.chain())?;
    let answers = answers(held, orig_dst, secured, chain);
    if !agent.maps.publish(held.id, &answers) {
        agent.chains.forget(held.id);
        return Ok(None);
    }
    let stop = agent.services.stop(held.caller.service);
    let mut arrival = namespace.expect(&progress.borrow().syn)?;
    let deadline = tokio::time::Instant::now() + ANSWER_LIMIT;
    loop {
        let now = progress.borrow_and_update().clone();
        if now.left.is_none()
            && let Err(error) = namespace.resume(&now.syn)
        {
            warn!(%error, "resuming a held connect failed; trying again when its SYN comes again");
        }
        tokio::select! {
            biased;
            leg = arrival.leg() => return Ok(leg.map(|leg| (leg, answers))),
            () = stop.cancelled() => return Err(Error::Stopping),
            () = sleep_until(deadline) => return Err(Error::Leg { limit: ANSWER_LIMIT }),
            // Held again: resume again. Established: the leg is about to arrive.
            changed = progress.changed() => if changed.is_err() { return Ok(None) },
        }
        let (left, closed) = (progress.borrow().left, progress.borrow().closed);
        match left {
            // Even if the application has closed it since: what it sent before is to arrive.
            Some(TcpState::ESTABLISHED) => {
                let leg = timeout(LEG_LIMIT, arrival.leg()).await.ok().flatten();
                return Ok(leg.map(|leg| (leg, answers)));
            }
            Some(_) => return Ok(None),
            None if closed => return Ok(None),
            None => {}
        }
    }
}

/// How long a connect that was resumed may go without the agent's SYN-ACK. It is resumed again meanwhile, when the kernel
/// sends the SYN again after 1 and 3 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long after its SYN-ACK an application leg may take to be accepted.
const LEG_LIMIT: Duration = Duration::from_secs(5);

/// The peer's address, in the form in which the application named it.
fn peer_of(secured: &Reached, orig_dst: SocketAddr) -> SocketAddr {
    let peer = secured.tcp().peer_addr().unwrap_or(orig_dst);
    SocketAddr::new(canonical(peer.ip()), peer.port())
}

fn canonical(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}

/// Publishes why, then refuses until the kernel says that the socket has left SYN_SENT: it drops an
/// ICMP error that meets a socket locked by another call.
async fn refuse(
    agent: &Agent,
    held: &Held,
    to: &Target,
    raw: &Raw,
    error: &Error,
    mut progress: watch::Receiver<Progress>,
    retiring: &CancellationToken,
) {
    let errno = error.errno();
    let text = error.text(ERROR_BYTES - 1);
    let mut answers = Connection::pending(held.attempt);
    answers.state = State::REFUSED;
    answers.push_cut(Text::Error, &text);
    if !agent.maps.publish(held.id, &answers) {
        return;
    }
    agent.connections.refused(&which(agent, held, to, Some(to.addr)), error, &text);
    let mut pause = Duration::from_millis(1);
    loop {
        let now = progress.borrow_and_update().clone();
        if now.is_over() {
            return;
        }
        if let Err(error) = raw.refuse(&now.syn, errno) {
            debug!(%error, "refusing a held connect failed; trying again");
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            () = retiring.cancelled() => return,
            () = sleep(pause) => pause = (pause * 2).min(Duration::from_secs(1)),
        }
    }
}
