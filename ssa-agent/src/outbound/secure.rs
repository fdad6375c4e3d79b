//! Way from a decision to a peer that was reached and verified.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ssa_common::{event::Held, limits::ERROR_BYTES};
use tokio::{net::TcpStream, time::timeout};
use tracing::warn;

use super::{outbound::Outbound, passthrough::DeferredHandshake, starttls};
use crate::{
    connection::Error,
    dial::{self, SocketSetup},
    enforce::{self, Decision, Permit},
    netns::Namespace,
    options::ClientSettings,
    policy::Mode,
    relay::PeerConnection,
    revocation::{self, Check, Origin, deadline},
    sys::on_behalf::SocketOwner,
    tls,
};

/// Peer that the application's connect may be answered for.
pub(super) struct PeerLeg {
    /// Peer itself, reached and verified as far as that is decided.
    pub(super) peer: Dialled,
    /// Time for which the connection may be idle; zero for as long as it likes.
    pub(super) idle: Duration,
    /// Bytes that the application is to receive before anything else.
    pub(super) greeting: Vec<u8>,
    /// Revocation check of the peer's certificates; none if they are not checked.
    pub(super) check: Option<Check>,
}

/// State of a peer that was reached.
pub(super) enum Dialled {
    /// Verified, or plaintext where the rule lets it be.
    Decided(PeerConnection),
    /// Connected; the application's first bytes decide who speaks TLS.
    Undecided(Box<DeferredHandshake>),
}

impl Dialled {
    /// TCP connection below TLS.
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Decided(peer) => peer.tcp(),
            Self::Undecided(deferred) => &deferred.stream,
        }
    }
}

/// Takes a connection and a handshake permit, then calls [`secure`]. The connection's permit is returned, for as long
/// as the connection lasts.
///
/// Errors: a limit is reached, the `decision` is one, or as of [`secure`]. Cancellation closes the connection.
pub(super) async fn admit_and_secure(
    outbound: &Outbound,
    held: &Held,
    decision: Result<Decision, enforce::Error>,
    namespace: &Arc<Namespace>,
) -> Result<(PeerLeg, Permit), Error> {
    let limits = &outbound.enforcement.limits;
    let permit = limits.connection(&held.caller).map_err(enforce::Error::from)?;
    let _handshake = limits.handshake().map_err(enforce::Error::from)?;
    let leg = secure(outbound, held, decision?, namespace).await?;
    Ok((leg, permit))
}

/// Takes a connection's permit, and dials: for a connect that was held before its cgroup was decided on, and that no rule
/// is for. What the application sends goes on as it is.
///
/// Errors: a limit is reached, or of dialling. Cancellation closes the connection.
pub(super) async fn admit_and_pass(
    outbound: &Outbound,
    held: &Held,
    namespace: &Arc<Namespace>,
) -> Result<(PeerLeg, Permit), Error> {
    let permit = outbound.enforcement.limits.connection(&held.caller).map_err(enforce::Error::from)?;
    let stream = dial::address(namespace, held.orig_dst.into(), setup(held), PASS_LIMIT).await?;
    let peer = Dialled::Decided(PeerConnection::Plaintext(stream));
    Ok((PeerLeg { peer, idle: Duration::ZERO, greeting: Vec::new(), check: None }, permit))
}

/// Time that dialling may take where no policy says so: about that of the kernel.
const PASS_LIMIT: Duration = Duration::from_secs(120);

/// Setup of the peer leg's socket: on behalf of the application, with the options that it has set.
fn setup(held: &Held) -> SocketSetup {
    SocketSetup { owner: owner(held), bound: held.bound, interface: held.interface, options: held.peer_options }
}

/// Owner of the sockets that are made for the application.
fn owner(held: &Held) -> SocketOwner {
    SocketOwner { cgroups: [held.cgroup, held.caller.cgroup], uid: held.caller.uid, gid: held.caller.gid }
}

/// Dials and shakes hands, as the decision has it, within the policy's limits of time.
async fn secure(
    outbound: &Outbound,
    held: &Held,
    decision: Decision,
    namespace: &Arc<Namespace>,
) -> Result<PeerLeg, Error> {
    let Decision { effective, rule, name } = decision;
    let Some(name) = name else { return Err(enforce::Error::NoRule.into()) };
    let orig_dst = SocketAddr::from(held.orig_dst);
    let time = &effective.policy.time;
    let (connect_limit, handshake_limit) = (time.connect_seconds.get(), time.handshake_seconds.get());
    let idle = Duration::from_secs(time.idle_seconds);
    let settings = match timeout(connect_limit, outbound.options.client(held.context, &effective)).await {
        Ok(settings) => settings?,
        Err(_elapsed) => return Err(Error::ReadTimeout { limit: connect_limit }),
    };
    let ClientSettings { mut tls, checks } = settings;
    if rule.is_some() {
        // The socket's context is as new as the socket: connections by rule share their sessions by policy.
        tls.sessions = tls.sessions.map(|_own| Arc::clone(&effective.sessions));
    }
    let origin = || Origin::application(Arc::clone(namespace), held.caller, owner(held));
    let check = checks.map(|checks| outbound.revocation.check(checks, origin()));
    let setup = setup(held);
    let stream = if orig_dst.ip().is_unspecified() && rule.is_none() {
        dial::name(namespace, held, orig_dst.port(), setup, connect_limit).await?
    } else {
        dial::address(namespace, orig_dst, setup, connect_limit).await?
    };
    let rule = rule.as_ref().map(|found| found.rule());
    if rule.is_some_and(|rule| rule.passes_app_tls()) {
        let deferred = DeferredHandshake { stream, tls, name, to: orig_dst, limit: handshake_limit };
        return Ok(PeerLeg { peer: Dialled::Undecided(Box::new(deferred)), idle, greeting: Vec::new(), check });
    }
    let until = deadline(handshake_limit);
    let shake_hands = async {
        let mut stream = stream;
        let greeting = match rule.and_then(|rule| rule.starttls()) {
            Some(protocol) => starttls::ask(protocol, &mut stream).await,
            None => Ok(Vec::new()),
        };
        let greeting = greeting.map_err(|error| tls::Error::NoTls(error.to_string()))?;
        let secured = revocation::connect(&tls, check.as_ref(), stream, &name, until).await?;
        let peer = Dialled::Decided(PeerConnection::Tls(Box::new(secured)));
        Ok::<_, Error>((peer, greeting))
    };
    let shaken = match timeout(handshake_limit, shake_hands).await {
        Ok(shaken) => shaken,
        Err(_elapsed) => Err(Error::HandshakeTimeout { to: orig_dst, limit: handshake_limit }),
    };
    match (shaken, rule) {
        (Ok((peer, greeting)), _) => Ok(PeerLeg { peer, idle, greeting, check }),
        (Err(error @ (Error::Tls(tls::Error::NoTls(_)) | Error::HandshakeTimeout { .. })), Some(rule))
            if rule.mode() == Mode::Prefer =>
        {
            let rule = rule.name.get_ref();
            warn!(
                target: "access",
                rule,
                peer = %orig_dst,
                error = error.text(ERROR_BYTES),
                "plaintext: the peer speaks no TLS"
            );
            let stream = dial::address(namespace, orig_dst, setup, connect_limit).await?;
            let peer = Dialled::Decided(PeerConnection::Plaintext(stream));
            Ok(PeerLeg { peer, idle, greeting: Vec::new(), check: None })
        }
        (Err(error), _) => Err(error),
    }
}
