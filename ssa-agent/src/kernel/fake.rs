//! Map of answers without a kernel, for tests of what decides on connections.

use std::{collections::HashMap, sync::Mutex};

use ssa_common::{
    certificate::{Certificate, Chain, Digest},
    connection::{Connection, State, Text},
};

use super::{error::Error, maps::answers::AnswerMap};
use crate::sync::lock;

/// Answers by socket id, as the hooks would have them.
#[derive(Default)]
pub(crate) struct FakeAnswers(Mutex<HashMap<u64, Connection>>);

impl FakeAnswers {
    /// Begins an attempt of a socket, as the connect hook notes it.
    pub(crate) fn open(&self, id: u64, attempt: u32) {
        lock(&self.0).insert(id, Connection::pending(attempt));
    }

    /// Closes a socket for the last time.
    pub(crate) fn close(&self, id: u64) {
        lock(&self.0).remove(&id);
    }

    /// Answers of a socket: attempt, state, and why it failed.
    pub(crate) fn state(&self, id: u64) -> Option<(u32, State, String)> {
        let answers = lock(&self.0);
        let one = answers.get(&id)?;
        let span = one.texts[Text::Error as usize];
        let (start, len) = (usize::from(span.start), usize::from(span.len));
        let text = one.bytes[start..start + len].strip_suffix(&[0]).unwrap_or_default();
        Some((one.attempt, one.state, String::from_utf8_lossy(text).into_owned()))
    }
}

impl AnswerMap for FakeAnswers {
    fn publish(&self, id: u64, answers: &Connection) -> bool {
        match lock(&self.0).get_mut(&id) {
            Some(now) if now.attempt <= answers.attempt => {
                *now = *answers;
                true
            }
            Some(_) | None => false,
        }
    }

    fn publish_accepted(&self, id: u64, answers: &Connection) -> Result<(), Error> {
        lock(&self.0).insert(id, *answers);
        Ok(())
    }

    fn publish_listener(&self, id: u64, answers: &Connection) {
        lock(&self.0).insert(id, *answers);
    }

    fn attempt(&self, id: u64) -> Option<u32> {
        lock(&self.0).get(&id).map(|answers| answers.attempt)
    }

    fn forget(&self, id: u64) {
        lock(&self.0).remove(&id);
    }

    fn put_chain(&self, _digest: &Digest, _chain: &Chain) -> Result<(), Error> {
        Ok(())
    }

    fn put_certificate(&self, _digest: &Digest, _certificate: &Certificate) -> Result<(), Error> {
        Ok(())
    }

    fn remove_chain(&self, _digest: &Digest) {}

    fn remove_certificate(&self, _digest: &Digest) {}

    fn inherited_chains(&self) -> Vec<(u64, Digest, Chain)> {
        Vec::new()
    }
}
