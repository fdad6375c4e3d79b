//! Life of one held connect as one function: settle whose it is, decide, dial, shake hands, answer, relay.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use ssa_common::limits::ERROR_BYTES;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::watch};
use tracing::{Instrument as _, Span, debug, field::Empty, info_span, warn};

use super::{
    hold::{HeldSyn, Outcome},
    outbound::Outbound,
    secure::{Dialled, PeerLeg, admit_and_pass, admit_and_secure},
    starttls,
    target::{labels, question},
};
use crate::{
    connection::{Error, Published},
    dial::{SocketOptions, option_updates},
    enforce::{self, DecisionLabels, Standing},
    netns::{self, Namespace},
    policy::RuleMatch,
    relay::{self, AppStream, PeerConnection},
    revocation::Check,
};

/// Drives one attempt from its first held SYN to the end of its relay. Aborting it refuses the connect, or resets the
/// connection.
pub(super) async fn run(outbound: Arc<Outbound>, held: HeldSyn, options: watch::Receiver<SocketOptions>) {
    let attempt = held.attempt();
    let span = info_span!(
        "connect",
        id = attempt.id,
        attempt = attempt.number,
        orig_dst = %held.orig_dst(),
        server_name = Empty,
        rule = Empty
    );
    drive(&outbound, held, options).instrument(span).await;
}

async fn drive(outbound: &Outbound, mut held: HeldSyn, options: watch::Receiver<SocketOptions>) {
    // Until the application has its connection, a successor may begin anew.
    let unresolved = outbound.drain.unresolved();
    let began = Instant::now();
    let standing = tokio::select! {
        () = outbound.drain.handing_over() => return held.leave(),
        () = held.over() => return debug!("given up by the application"),
        standing = outbound.enforcement.settle(&held.record().caller) => standing,
    };
    if let Standing::Served(service) = standing {
        held.belongs_to(service, outbound.attached.stop(service));
    }
    let namespace = tokio::select! {
        () = outbound.drain.handing_over() => return held.leave(),
        namespace = enter(outbound, &mut held) => namespace,
    };
    let Some(namespace) = namespace else { return };
    // Not before: a reload that came while the namespace was entered counts.
    let (decided, decision) = match standing {
        Standing::Nobody if held.record().by_rule == 0 => (DecisionLabels::default(), Err(enforce::Error::NotServed)),
        Standing::Unknown => (DecisionLabels::default(), Err(enforce::Error::Undecided)),
        Standing::Nobody | Standing::Served(_) => outbound.enforcement.decide(&question(held.record())),
    };
    let decided = &decided;
    Span::current().record("server_name", &decided.name).record("rule", &decided.rule);
    let namespace = match namespace {
        Ok(namespace) => namespace,
        Err(error) => return refuse(outbound, held, decided, &Error::Namespace(error)).await,
    };
    held.entered(namespace.end_hold());
    let rule = decision.as_ref().ok().and_then(|decision| decision.rule.clone());
    let secured = held.attempt_to(async {
        match decision {
            // It was held because a rule could have wanted it; none does.
            Err(enforce::Error::NoRule) => admit_and_pass(outbound, held.record(), &namespace).await,
            decision => admit_and_secure(outbound, held.record(), decision, &namespace).await,
        }
    });
    let secured = match secured.await {
        Outcome::Done(secured) => secured,
        Outcome::GivenUp => return debug!("given up by the application"),
        Outcome::Left => {
            debug!("left to the agent that takes over");
            return held.leave();
        }
    };
    let answered = match secured {
        Ok((leg, permit)) => {
            debug!(elapsed = ?began.elapsed(), "reached");
            let answered = answer(outbound, &mut held, &namespace, &leg.peer).await;
            answered.map(|answered| answered.map(|(app, published)| (app, published, leg, permit)))
        }
        Err(error) => Err(error),
    };
    match answered {
        Ok(Some((app, published, leg, permit))) => {
            drop(unresolved);
            let connection = Connection { outbound, held: &held, decided, rule, began };
            connection.relay(app, published, leg, options).await;
            drop(permit);
        }
        Ok(None) => debug!("given up by the application"),
        Err(error) => refuse(outbound, held, decided, &error).await,
    }
}

/// Enters the namespace of the application's socket; an error if it can't be served. None if the application has given
/// up before that, or the service is detached.
async fn enter(outbound: &Outbound, held: &mut HeldSyn) -> Option<Result<Arc<Namespace>, netns::Error>> {
    /// Most tries, one with each SYN: for 7 s.
    const TRIES: u32 = 4;
    let stop = held.stop().clone();
    let mut tries = 0;
    loop {
        tries += 1;
        match outbound.namespaces.of(&held.record().caller).await {
            Ok(namespace) => return Some(Ok(namespace)),
            Err(error) if tries == TRIES => return Some(Err(error)),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "a held connect can't be answered yet"),
        }
        tokio::select! {
            again = held.comes_again() => if !again { return None },
            () = stop.cancelled() => return None,
        }
    }
}

/// Publishes the answers, lets the SYN pass, and waits for the application leg. None if the application has given up.
async fn answer(
    outbound: &Outbound,
    held: &mut HeldSyn,
    namespace: &Arc<Namespace>,
    dialled: &Dialled,
) -> Result<Option<(TcpStream, Published)>, Error> {
    let (peer, local) = addresses(dialled.tcp(), held.orig_dst());
    let published = match dialled {
        Dialled::Decided(connection) => outbound.answers.secured(held.attempt(), connection, peer, local)?,
        Dialled::Undecided(_) => outbound.answers.connected(held.attempt(), peer, local)?,
    };
    let Some(published) = published else { return Ok(None) };
    let mut leg = namespace.expect(&held.syn())?;
    let app = held.resume(Box::pin(leg.leg())).await?;
    Ok(app.map(|app| (app, published)))
}

/// Addresses of a peer leg: the peer's, in the form in which the application named it, and its own.
fn addresses(tcp: &TcpStream, orig_dst: SocketAddr) -> (SocketAddr, Option<SocketAddr>) {
    let peer = tcp.peer_addr().unwrap_or(orig_dst);
    (SocketAddr::new(peer.ip().to_canonical(), peer.port()), tcp.local_addr().ok())
}

async fn refuse(outbound: &Outbound, held: HeldSyn, decided: &DecisionLabels, error: &Error) {
    let (record, orig_dst) = (Box::new(*held.record()), held.orig_dst());
    let log = |text: &str| outbound.table.refused(&labels(outbound, &record, decided, Some(orig_dst)), error, text);
    held.refuse(error, log).await;
}

/// Connection that the application has.
struct Connection<'a> {
    outbound: &'a Outbound,
    held: &'a HeldSyn,
    decided: &'a DecisionLabels,
    rule: Option<RuleMatch>,
    /// Time at which its SYN was held.
    began: Instant,
}

impl Connection<'_> {
    /// Relays until both sides have ended.
    async fn relay(
        &self,
        app: TcpStream,
        mut published: Published,
        leg: PeerLeg,
        options: watch::Receiver<SocketOptions>,
    ) {
        let (outbound, stop) = (self.outbound, self.held.stop());
        let PeerLeg { peer, idle, greeting, check } = leg;
        let check = check.as_ref();
        let decided = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            decided = decide(peer, check, &app) => decided,
        };
        let republished = decided.and_then(|peer| self.publish_anew(peer, &mut published));
        let mut peer = match republished {
            Ok(peer) => peer,
            Err(error) => return self.hang_up(&mut published, &error),
        };
        let labels = labels(outbound, self.held.record(), self.decided, None);
        let entry = outbound.table.open(&labels, &peer, self.began);
        let updates = option_updates(options, self.held.record().peer_options);
        // `TLS_ERROR` says why before the reset arrives.
        let before_reset = |error: &relay::Error| outbound.answers.failed(&mut published, &error.text(ERROR_BYTES - 1));
        let relayed = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            relayed = async {
                let app = match &self.rule {
                    Some(found) => begin_by_rule(found, app, &greeting, &mut peer).await?,
                    None => AppStream::new(app),
                };
                let chain = if check.is_some() { peer.chain().to_vec() } else { Vec::new() };
                let revoked = Check::watch(check, &chain, |how| entry.revoked(how));
                peer.relay(app, updates, before_reset, &entry.copied, idle, revoked).await
            } => relayed,
        };
        match relayed {
            Ok(()) => entry.closed(),
            Err(error) => entry.reset(error.text(ERROR_BYTES - 1)),
        }
    }

    /// Publishes the answers of a peer whose handshake came after the application had its connection.
    fn publish_anew(&self, peer: PeerConnection, published: &mut Published) -> Result<PeerConnection, Error> {
        if published.is_outdated(&peer) {
            let (addr, local) = addresses(peer.tcp(), self.held.orig_dst());
            // None if the application has closed its socket; what it sent before is still to arrive.
            if let Some(anew) = self.outbound.answers.secured(self.held.attempt(), &peer, addr, local)? {
                *published = anew;
            }
        }
        Ok(peer)
    }

    /// Ends a connection that the application has already; the reason is published first.
    fn hang_up(&self, published: &mut Published, error: &Error) {
        let text = error.text(ERROR_BYTES - 1);
        self.outbound.answers.failed(published, &text);
        let labels = labels(self.outbound, self.held.record(), self.decided, Some(self.held.orig_dst()));
        self.outbound.table.refused(&labels, error, &text);
    }
}

/// Peer after it is known who speaks TLS: the agent or the application.
async fn decide(dialled: Dialled, check: Option<&Check>, app: &TcpStream) -> Result<PeerConnection, Error> {
    match dialled {
        Dialled::Decided(peer) => Ok(peer),
        Dialled::Undecided(deferred) => deferred.detect(check, app).await,
    }
}

/// Sends the bytes that come before those that are relayed, where a protocol begins in plaintext.
async fn begin_by_rule(
    found: &RuleMatch,
    mut app: TcpStream,
    greeting: &[u8],
    peer: &mut PeerConnection,
) -> Result<AppStream, relay::Error> {
    let secured = match peer {
        PeerConnection::Tls(secured) => secured,
        PeerConnection::Plaintext(_) => return Ok(AppStream::new(app)),
        PeerConnection::Passthrough(_) => return Ok(AppStream::tls_records(app)),
    };
    if let Some(protocol) = found.rule().starttls() {
        let first = starttls::settle(protocol, &mut app, greeting).await.map_err(relay::Error::Application)?;
        secured.stream.write_all(&first).await.map_err(relay::Error::Peer)?;
    }
    Ok(AppStream::plaintext_first(app))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F: Future>(_run: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// 10,000 open connections have 10,000 of these.
    #[test]
    fn future_of_a_connection_is_small() {
        let size = size_of_future(run);
        assert!((1000..FUTURE_BYTES_MAX).contains(&size), "{size} bytes");
    }

    const FUTURE_BYTES_MAX: usize = 9216;
}
