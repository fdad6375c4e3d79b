//! Answers of `getsockopt`, `getpeername` and `getsockname` for a connection: published before the application hears of
//! it.

use std::{net::SocketAddr, sync::Arc};

use ssa_common::connection::{Connection, Scalar, State, Text};

use super::{chains::Chains, error::Error};
use crate::{kernel::AnswerMap, relay::PeerConnection};

/// Answers of all connections, in the hooks' maps. Clones share them.
#[derive(Clone)]
pub(crate) struct Answers {
    map: Arc<dyn AnswerMap>,
    chains: Arc<Chains>,
}

/// A socket at one of its connects. Answers of another attempt are ignored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Attempt {
    /// `TLS_ID` of the socket.
    pub(crate) id: u64,
    /// Count of the socket's connects, from 1.
    pub(crate) number: u32,
}

/// Answers of a connection that was made, as they were published.
pub(crate) struct Published {
    id: u64,
    answers: Box<Connection>,
}

impl Answers {
    /// Takes over the maps, and the chains of sockets that an agent before this one has left in them.
    pub(crate) fn new(map: Arc<dyn AnswerMap>) -> Self {
        Self { chains: Arc::new(Chains::new(Arc::clone(&map))), map }
    }

    /// Count of connects that a socket is at, from 1; none if it is closed.
    pub(crate) fn attempt(&self, id: u64) -> Option<u32> {
        self.map.attempt(id)
    }

    /// Publishes that nothing is known of an attempt yet.
    pub(crate) fn pending(&self, of: Attempt) {
        // Closed already: then nobody asks.
        let _closed = self.map.publish(of.id, &Connection::pending(of.number));
    }

    /// Publishes the reason why an attempt fails, at most [`ssa_common::limits::ERROR_BYTES`] of it. False if the
    /// socket is closed already, or at another attempt.
    pub(crate) fn refused(&self, of: Attempt, why: &str) -> bool {
        self.map.publish(of.id, &refusal(of.number, why))
    }

    /// Publishes what is known of a peer that was reached: `peer` and `local` are the addresses of the peer leg. None
    /// if the socket is closed already. Errors: [`Error::NoRoom`] if the maps of certificates are full.
    pub(crate) fn secured(
        &self,
        of: Attempt,
        connection: &PeerConnection,
        peer: SocketAddr,
        local: Option<SocketAddr>,
    ) -> Result<Option<Published>, Error> {
        // Late: the chain that the socket has is another attempt's.
        if self.map.attempt(of.id) != Some(of.number) {
            return Ok(None);
        }
        let mut answers = describe(of.number, connection, peer, local);
        answers.sha256 = connection.fingerprint();
        answers.chain = self.chains.publish(of.id, connection.chain())?;
        answers.push_cut(Text::Identity, &connection.identity());
        if !self.map.publish(of.id, &answers) {
            self.chains.forget(of.id);
            return Ok(None);
        }
        Ok(Some(Published { id: of.id, answers }))
    }

    /// Publishes that a peer was reached, of which nothing else is known yet. None if the socket is closed already.
    /// Errors: [`Error::NoRoom`].
    pub(crate) fn connected(
        &self,
        of: Attempt,
        peer: SocketAddr,
        local: Option<SocketAddr>,
    ) -> Result<Option<Published>, Error> {
        if self.map.attempt(of.id) != Some(of.number) {
            return Ok(None);
        }
        let mut answers = addresses(of.number, peer, local);
        answers.chain = self.chains.publish(of.id, &[])?;
        if !self.map.publish(of.id, &answers) {
            self.chains.forget(of.id);
            return Ok(None);
        }
        Ok(Some(Published { id: of.id, answers }))
    }

    /// Publishes what is known of a client, for the socket `id` that is to come out of a listener. Errors:
    /// [`Error::NoRoom`], or the map of answers is full.
    pub(crate) fn accepted(
        &self,
        id: u64,
        connection: &PeerConnection,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Result<Published, Error> {
        let mut answers = describe(1, connection, peer, Some(local));
        if let Some(name) = connection.sni() {
            answers.push_cut(Text::Sni, name);
        }
        if !connection.chain().is_empty() {
            answers.sha256 = connection.fingerprint();
            answers.chain = self.chains.publish(id, connection.chain())?;
            // Beside long names, the subject is cut.
            answers.push_cut(Text::Identity, &connection.identity());
        }
        self.map.publish_accepted(id, &answers)?;
        Ok(Published { id, answers })
    }

    /// Publishes the reason why a connection that was made has failed, beside what is known of it: before it is reset.
    pub(crate) fn failed(&self, published: &mut Published, why: &str) {
        published.answers.push_cut(Text::Error, why);
        // Closed already: then nobody asks.
        let _closed = self.map.publish(published.id, &published.answers);
    }

    /// Publishes the reason why a listener can't serve; `listens` says whether it still does, and is asked afterwards:
    /// if not, the answer is deleted again.
    pub(crate) fn listener_failed(&self, of: Attempt, why: &str, listens: impl FnOnce() -> bool) {
        self.map.publish_listener(of.id, &refusal(of.number, why));
        if !listens() {
            self.map.forget(of.id);
        }
    }

    /// Forgets the chain of a socket that is closed.
    pub(crate) fn forget_chain(&self, id: u64) {
        self.chains.forget(id);
    }

    /// Forgets the answers and chain of an accepted socket that no application ever had, or has no more.
    pub(crate) fn forget_accepted(&self, id: u64) {
        self.map.forget(id);
        self.chains.forget(id);
    }

    /// Leaves the chains to a successor (true), which deletes them; or takes them back (false).
    pub(crate) fn leave_chains(&self, left: bool) {
        self.chains.leave(left);
    }
}

impl Published {
    /// Compares the TLS version of `connection` with the published one; true if its handshake came later.
    pub(crate) fn is_outdated(&self, connection: &PeerConnection) -> bool {
        self.answers.scalars[Scalar::Version as usize] != connection.version()
    }
}

fn refusal(attempt: u32, why: &str) -> Connection {
    let mut answers = Connection::pending(attempt);
    answers.state = State::REFUSED;
    answers.push_cut(Text::Error, why);
    answers
}

/// Describes a peer: the answers that both directions have.
fn describe(attempt: u32, connection: &PeerConnection, peer: SocketAddr, local: Option<SocketAddr>) -> Box<Connection> {
    let mut answers = addresses(attempt, peer, local);
    answers.scalars[Scalar::Version as usize] = connection.version();
    answers.scalars[Scalar::Resumed as usize] = i64::from(connection.resumed());
    answers.scalars[Scalar::CertificateCount as usize] = i64::try_from(connection.chain().len()).unwrap_or(i64::MAX);
    answers.push_cut(Text::Cipher, connection.cipher());
    if let Some(protocol) = connection.alpn() {
        answers.push_cut(Text::Alpn, protocol);
    }
    answers
}

fn addresses(attempt: u32, peer: SocketAddr, local: Option<SocketAddr>) -> Box<Connection> {
    let mut answers = Box::new(Connection::pending(attempt));
    answers.state = State::SECURED;
    answers.peer = peer.into();
    answers.local = local.map(Into::into).unwrap_or_default();
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::FakeAnswers;

    #[test]
    fn late_answer_of_an_attempt_never_answers_the_next_one() {
        let map = Arc::new(FakeAnswers::default());
        let answers = Answers::new(map.clone());
        map.open(7, 1);
        assert!(answers.refused(Attempt { id: 7, number: 1 }, "first"));
        map.open(7, 2);
        assert!(!answers.refused(Attempt { id: 7, number: 1 }, "late"));
        assert_eq!(map.state(7), Some((2, State::PENDING, String::new())));
        assert!(answers.refused(Attempt { id: 7, number: 2 }, "second"));
        assert_eq!(map.state(7), Some((2, State::REFUSED, "second".to_owned())));
        map.close(7);
        assert!(!answers.refused(Attempt { id: 7, number: 2 }, "nobody is there"));
        assert_eq!(map.state(7), None);
    }

    #[test]
    fn listener_that_has_gone_keeps_no_answer() {
        let map = Arc::new(FakeAnswers::default());
        let answers = Answers::new(map.clone());
        answers.listener_failed(Attempt { id: 3, number: 1 }, "no key", || true);
        assert_eq!(map.state(3), Some((1, State::REFUSED, "no key".to_owned())));
        answers.listener_failed(Attempt { id: 4, number: 1 }, "no key", || false);
        assert_eq!(map.state(4), None);
    }
}
