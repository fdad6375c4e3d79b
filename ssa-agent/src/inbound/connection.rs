//! One client of a program's listener as one function: handshake, leg to the listener, relay.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use ssa_common::{
    connection::{Connection, Scalar, State, Text},
    limits::{ERROR_BYTES, LEG_PREFIX},
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tracing::{Instrument as _, debug, info_span, warn};

use super::listeners::Listener;
use crate::{
    app::run::Agent,
    connection::{
        error::Error,
        table::{Direction, Which},
    },
    dial::socket as peer_leg,
    enforce::rules::Found,
    netns::namespace::{Client, Passage},
    outbound::connection::relay_text,
    policy::rule::Mode,
    relay::{app_stream::AppStream, peer::Reached, relay},
    revocation::revocation::{self, Inquiry},
    tls::{client as tls, server},
};

/// How long a program's listener may take to have room for one more.
const LEG_LIMIT: Duration = Duration::from_secs(30);
/// Ports that are tried for one leg.
const LEG_TRIES: u32 = 16;

/// Serves clients as they come.
pub(crate) async fn serve(agent: Arc<Agent>, mut clients: mpsc::Receiver<Client>) {
    loop {
        let client = tokio::select! {
            client = clients.recv() => client,
            () = agent.stop.cancelled() => return,
        };
        let Some(Client { namespace, stream, from }) = client else { return };
        let Ok(local) = stream.local_addr() else { continue };
        let Some(listener) = agent.listeners.find(namespace.cookie, local) else {
            debug!(%from, %local, "reset a client of no listener");
            continue;
        };
        let Ok(permit) = Arc::clone(&listener.handshakes).try_acquire_owned() else {
            debug!(%from, %local, "reset a client: too many handshakes are in flight");
            continue;
        };
        let agent = Arc::clone(&agent);
        let span = info_span!("accept", listener = listener.id, %from, %local);
        tokio::spawn(
            async move {
                // Dropping the stream resets it.
                if let Err(error) = client_of(&agent, &listener, stream, from, local, permit).await {
                    let found = listener.rule(&agent);
                    agent.connections.refused(
                        &which(&agent, &listener, found.as_ref(), 0, "", from),
                        &error,
                        &error.text(ERROR_BYTES),
                    );
                }
            }
            .instrument(span),
        );
    }
}

async fn client_of(
    agent: &Agent,
    listener: &Listener,
    stream: TcpStream,
    from: SocketAddr,
    local: SocketAddr,
    permit: tokio::sync::OwnedSemaphorePermit,
) -> Result<(), Error> {
    let began = Instant::now();
    let _permit = agent.limits.connection(&listener.caller)?;
    let handshake = agent.limits.handshake()?;
    let policy = listener.policy(agent)?;
    let idle = Duration::from_secs(policy.policy.time.idle_seconds);
    let limit = policy.policy.time.handshake_seconds.get();
    let stop = agent.services.stop(listener.caller.service);
    let until = revocation::deadline(limit);
    let (secured, inquiry) = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Error::Stopping),
        secured = timeout(limit, async {
            if listener.rule(agent).is_some_and(|found| found.rule().mode() == Mode::Prefer) && !speaks_tls(&stream).await {
                warn!(target: "access", "plaintext: the client speaks no TLS");
                return Ok((Reached::Plain(stream), None));
            }
            let front = agent.contexts.front(listener.context, &policy).await?;
            front.keep_stapled(&agent.revocation, &policy.policy.revocation, || listener.origin.clone());
            let inquiry = front.checks.clone().map(|checks| agent.revocation.inquiry(checks, listener.origin.clone()));
            let secured = server::accept(&front, inquiry.as_ref(), stream, until).await?;
            Ok::<_, tls::Error>((Reached::Tls(Box::new(secured)), inquiry))
        }) => secured.map_err(|_elapsed| Error::HandshakeTimeout { to: from, limit })??,
    };
    drop((permit, handshake));
    debug!(version = secured.version(), resumed = secured.resumed(), "secured");
    let id = new_id()?;
    let wishes = agent.listeners.accept(id, listener.id);
    let prepared = prepare(agent, listener, &secured, id, from, local).await;
    let (leg, passage, mut answers) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            agent.listeners.give_up(agent, id);
            return Err(error);
        }
    };
    let before_reset = |error: &relay::Error| {
        answers.push_cut(Text::Error, &relay_text(error));
        agent.maps.publish(id, &answers);
    };
    let (found, name) = (listener.rule(agent), secured.sni().unwrap_or_default());
    let entry = agent.connections.open(&which(agent, listener, found.as_ref(), id, name, from), &secured, began);
    let news = peer_leg::news(wishes, [ssa_common::peer_option::ABSENT; ssa_common::peer_option::SLOTS]);
    let chain = if inquiry.is_some() { secured.chain().to_vec() } else { Vec::new() };
    let revoked = Inquiry::watch(inquiry.as_ref(), &chain, |how| entry.revoked(how));
    let relayed = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        relayed = secured.relay(AppStream::new(leg), news, before_reset, &entry.copied, idle, revoked) => relayed,
    };
    let established = passage.withdraw();
    drop(passage);
    match &relayed {
        Ok(()) => entry.closed(),
        Err(error) => entry.reset(relay_text(error)),
    }
    if !established {
        agent.listeners.give_up(agent, id);
        return Ok(());
    }
    let reset_by_program = matches!(relayed, Err(relay::Error::Application(_)));
    agent.listeners.ended(agent, &listener.namespace, id, reset_by_program).await;
    Ok(())
}

/// Whether a client begins with a handshake of TLS. It has to speak first.
async fn speaks_tls(stream: &TcpStream) -> bool {
    const HANDSHAKE: u8 = 22;
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1)) && first[0] == HANDSHAKE
}

fn which<'a>(
    agent: &Agent,
    listener: &'a Listener,
    found: Option<&'a Found>,
    id: u64,
    name: &'a str,
    from: SocketAddr,
) -> Which<'a> {
    Which {
        id,
        direction: Direction::In,
        caller: &listener.caller,
        service: agent.services.name(listener.caller.service),
        name,
        rule: found.map(|found| found.rule().name.get_ref().as_str()),
        peer: Some(from),
    }
}

/// Publishes the answers, then connects to the program's listener.
async fn prepare(
    agent: &Agent,
    listener: &Listener,
    secured: &Reached,
    id: u64,
    from: SocketAddr,
    local: SocketAddr,
) -> Result<(TcpStream, Passage, Connection), Error> {
    let answers = answers(agent, secured, id, from, local)?;
    agent.maps.publish_accepted(id, &answers)?;
    let failed = |source| Error::Dial { to: local, source };
    let mut tries = 0;
    loop {
        tries += 1;
        let socket = listener.namespace.make(move || leg(local)).await.map_err(failed)?;
        let source = socket.local_addr().map_err(failed)?.as_socket();
        let source = source.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let passage = listener.namespace.announce(source, local, id)?;
        agent.listeners.has_leg(id, source, local);
        let connected = TcpSocket::from_std_stream(socket.into()).connect(local);
        match timeout(LEG_LIMIT, connected).await {
            Ok(Ok(leg)) => return Ok((leg, passage, answers)),
            // A connection that has just ended still has these very addresses.
            Ok(Err(error)) if error.kind() == io::ErrorKind::AddrNotAvailable && tries < LEG_TRIES => {}
            Ok(Err(error)) => return Err(failed(error)),
            Err(_elapsed) => return Err(Error::DialTimeout { to: local, limit: LEG_LIMIT }),
        }
    }
}

/// A socket that is bound first, so that its whole 4-tuple is known before it connects. Reset when it is
/// closed, until the relay says otherwise.
fn leg(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)?;
    bind(&socket, to.ip())?;
    Ok(socket)
}

/// Binds a leg to a loopback address. One address has about 28,000 ports, each lost for a minute when its
/// connection ends. IPv4 has [`LEG_PREFIX`] to choose from. IPv6 has one loopback address: there a port is
/// named, as only so the kernel gives those of ended connections out again (after a second, `tcp_tw_reuse`).
fn bind(socket: &Socket, to: IpAddr) -> io::Result<()> {
    let mut random = [0; 2];
    openssl::rand::rand_bytes(&mut random)?;
    if to.is_ipv4() {
        let from = Ipv4Addr::new(LEG_PREFIX[0], LEG_PREFIX[1], random[0], random[1]);
        return socket.bind(&SocketAddr::new(from.into(), 0).into());
    }
    let from = |port| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port).into();
    let (first, last) = local_ports();
    let port = first + u16::from_ne_bytes(random) % (last - first).saturating_add(1);
    socket.set_reuse_address(true)?;
    match socket.bind(&from(port)) {
        // It is a listener's, or a socket's that does not share.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => socket.bind(&from(0)),
        done => done,
    }
}

/// The ports that this thread's namespace gives to sockets that ask for none.
fn local_ports() -> (u16, u16) {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = range.split_whitespace().filter_map(|port| port.parse().ok());
    match (ports.next(), ports.next()) {
        (Some(first), Some(last)) if first <= last => (first, last),
        _ => (32768, 60999),
    }
}

/// What the program can ask of an accepted socket.
fn answers(
    agent: &Agent,
    secured: &Reached,
    id: u64,
    from: SocketAddr,
    local: SocketAddr,
) -> Result<Connection, Error> {
    let mut answers = Connection::pending(1);
    answers.state = State::SECURED;
    answers.peer = from.into();
    answers.local = local.into();
    answers.scalars[Scalar::Version as usize] = secured.version();
    answers.scalars[Scalar::Resumed as usize] = i64::from(secured.resumed());
    answers.scalars[Scalar::CertificateCount as usize] = i64::try_from(secured.chain().len()).unwrap_or(i64::MAX);
    answers.push_cut(Text::Cipher, secured.cipher());
    if let Some(protocol) = secured.alpn() {
        answers.push_cut(Text::Alpn, protocol);
    }
    if let Some(name) = secured.sni() {
        answers.push_cut(Text::Sni, name);
    }
    if !secured.chain().is_empty() {
        answers.sha256 = secured.fingerprint();
        answers.chain = agent.chains.publish(id, secured.chain())?;
        // Beside long names, the subject is cut.
        answers.push_cut(Text::Identity, &secured.identity());
    }
    Ok(answers)
}

fn new_id() -> Result<u64, Error> {
    loop {
        let mut bytes = [0; 8];
        openssl::rand::rand_bytes(&mut bytes).map_err(tls::Error::from)?;
        let id = u64::from_ne_bytes(bytes);
        if id != 0 {
            return Ok(id);
        }
    }
}
