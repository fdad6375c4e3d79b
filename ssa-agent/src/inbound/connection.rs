//! Life of one client of an application's listener as one function: decide, shake hands, answer, connect to the
//! listener, relay.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ssa_common::{
    limits::ERROR_BYTES,
    peer_option::{ABSENT, SLOTS},
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};
use tracing::{Instrument as _, debug, info_span, warn};

use super::{inbound::Inbound, leg, listener::Listener};
use crate::{
    connection::{ConnectionLabels, Error, new_id},
    dial::option_updates,
    enforce::{self, Decision, DecisionLabels},
    netns::Client,
    policy::{Direction, Mode},
    relay::{self, AppStream, PeerConnection},
    revocation::{self, Check, deadline},
    tls::content_type,
};

/// Serves clients as they come, each in a task of its own, until the agent stops.
pub(crate) async fn serve(inbound: Arc<Inbound>, mut clients: mpsc::Receiver<Client>) {
    loop {
        let client = tokio::select! {
            client = clients.recv() => client,
            () = inbound.drain.stopped() => return,
        };
        let Some(Client { netns, stream, from }) = client else { return };
        let Ok(local) = stream.local_addr() else { continue };
        let Some(listener) = inbound.listeners.find(netns, local) else {
            debug!(%from, %local, "reset a client of no listener");
            continue;
        };
        let Ok(permit) = Arc::clone(&listener.handshakes).try_acquire_owned() else {
            debug!(%from, %local, "reset a client: too many handshakes are in flight");
            continue;
        };
        let span = info_span!("accept", listener = listener.id, %from, %local);
        let connection = Connection { inbound: Arc::clone(&inbound), listener, from, local, began: Instant::now() };
        tokio::spawn(run(connection, stream, permit).instrument(span));
    }
}

/// Drives one client from its first byte to the end of its relay. Dropping the stream resets it.
async fn run(connection: Connection, stream: TcpStream, permit: OwnedSemaphorePermit) {
    let (decided, decision) = connection.inbound.enforcement.decide(&connection.listener.question());
    if let Err(error) = connection.drive(&decided, decision, stream, permit).await {
        let labels = connection.labels(&decided, 0, "");
        connection.inbound.table.refused(&labels, &error, &error.text(ERROR_BYTES));
    }
}

/// A client that was accepted in an application's place.
struct Connection {
    inbound: Arc<Inbound>,
    listener: Arc<Listener>,
    /// Address of the client.
    from: SocketAddr,
    /// Address that the client has connected to.
    local: SocketAddr,
    began: Instant,
}

impl Connection {
    async fn drive(
        &self,
        decided: &DecisionLabels,
        decision: Result<Decision, enforce::Error>,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Error> {
        let (inbound, listener) = (&*self.inbound, &*self.listener);
        let limits = &inbound.enforcement.limits;
        let _permit = limits.connection(&listener.caller).map_err(enforce::Error::from)?;
        let handshake = limits.handshake().map_err(enforce::Error::from)?;
        let decision = decision?;
        let time = &decision.effective.policy.time;
        let (limit, idle) = (time.handshake_seconds.get(), Duration::from_secs(time.idle_seconds));
        let stop = inbound.attached.stop(listener.caller.service);
        let until = deadline(limit);
        let (peer, check) = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::Stopping),
            secured = timeout(limit, self.secure(&decision, stream, until)) => {
                secured.map_err(|_elapsed| Error::HandshakeTimeout { to: self.from, limit })??
            }
        };
        drop((permit, handshake));
        debug!(version = peer.version(), resumed = peer.resumed(), "secured");
        let id = new_id()?;
        let options = inbound.accepted.enter(id, listener.id);
        let answered = async {
            let published = inbound.answers.accepted(id, &peer, self.from, self.local)?;
            let (leg, announced) = leg::connect(inbound, listener, id, self.local).await?;
            Ok((leg, announced, published))
        };
        let (leg, announced, mut published) = match answered.await {
            Ok(answered) => answered,
            Err(error) => {
                inbound.discard(id);
                return Err(error);
            }
        };
        let before_reset = |error: &relay::Error| inbound.answers.failed(&mut published, &error.text(ERROR_BYTES - 1));
        let labels = self.labels(decided, id, peer.sni().unwrap_or_default());
        let entry = inbound.table.open(&labels, &peer, self.began);
        let updates = option_updates(options, [ABSENT; SLOTS]);
        let chain = if check.is_some() { peer.chain().to_vec() } else { Vec::new() };
        let revoked = Check::watch(check.as_ref(), &chain, |how| entry.revoked(how));
        let relayed = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            relayed = peer.relay(AppStream::new(leg), updates, before_reset, &entry.copied, idle, revoked) => relayed,
        };
        let established = announced.withdraw();
        match &relayed {
            Ok(()) => entry.closed(),
            Err(error) => entry.reset(error.text(ERROR_BYTES - 1)),
        }
        if !established {
            inbound.discard(id);
            return Ok(());
        }
        let reset_by_application = matches!(relayed, Err(relay::Error::Application(_)));
        inbound.connection_ended(&listener.namespace, id, reset_by_application).await;
        Ok(())
    }

    /// Shakes hands with the client; plaintext where the rule lets it be.
    async fn secure(
        &self,
        decision: &Decision,
        stream: TcpStream,
        until: Instant,
    ) -> Result<(PeerConnection, Option<Check>), Error> {
        let (inbound, listener) = (&*self.inbound, &*self.listener);
        let prefer = decision.rule.as_ref().is_some_and(|found| found.rule().mode() == Mode::Prefer);
        if prefer && !speaks_tls(&stream).await {
            warn!(target: "access", "plaintext: the client speaks no TLS");
            return Ok((PeerConnection::Plaintext(stream), None));
        }
        let settings = inbound.options.server(listener.context, &decision.effective).await?;
        if let Some(stapling) = &settings.stapling {
            stapling.keep_fresh(&decision.effective.policy.revocation, || listener.origin.clone());
        }
        let check = settings.checks.clone().map(|checks| inbound.revocation.check(checks, listener.origin.clone()));
        let secured = revocation::accept(&settings.tls, check.as_ref(), stream, until).await?;
        Ok((PeerConnection::Tls(Box::new(secured)), check))
    }

    /// Labels of the connection for the log and tables; `id` is zero, and `name` empty, before the handshake is done.
    fn labels<'a>(&'a self, decided: &'a DecisionLabels, id: u64, name: &'a str) -> ConnectionLabels<'a> {
        ConnectionLabels {
            id,
            direction: Direction::In,
            caller: &self.listener.caller,
            service: self.inbound.attached.name(self.listener.caller.service),
            name,
            rule: decided.rule.as_deref(),
            peer: Some(self.from),
        }
    }
}

/// Whether a client begins with a handshake of TLS. It has to speak first.
async fn speaks_tls(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1)) && first[0] == content_type::HANDSHAKE
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

    #[tokio::test]
    async fn clients_of_prefer_are_told_apart_by_their_first_byte() {
        use tokio::{io::AsyncWriteExt as _, net::TcpListener};
        for (first, is_tls) in [(content_type::HANDSHAKE, true), (b'G', false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _from) = listener.accept().await.unwrap();
            client.write_all(&[first]).await.unwrap();
            assert_eq!(speaks_tls(&stream).await, is_tls, "{first}");
        }
    }
}
