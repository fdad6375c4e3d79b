//! Health of the agent: whether it serves, and looks at events.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{drain::Drain, sync::lock};

/// Readiness by the process's phase, liveness by how lately events were looked at.
pub(crate) struct Health {
    drain: Drain,
    /// Time at which the hooks' events were last looked at; none before the first time.
    beat: Mutex<Option<Instant>>,
}

/// Time after which an agent that has not looked at events hangs: it does every 100 ms.
const BEAT_LIMIT: Duration = Duration::from_secs(10);

impl Health {
    /// Makes the health of a process that has not looked at an event yet.
    pub(crate) fn new(drain: Drain) -> Self {
        Self { drain, beat: Mutex::default() }
    }

    /// Notes that the events were looked at.
    pub(crate) fn beat(&self) {
        *lock(&self.beat) = Some(Instant::now());
    }

    /// Whether sockets connect.
    pub(crate) fn is_ready(&self) -> bool {
        self.drain.phase().is_serving() && self.is_alive()
    }

    /// Whether events are looked at; true before the first time, when it is about to begin.
    pub(crate) fn is_alive(&self) -> bool {
        self.last_beat().is_none_or(|beat| beat.elapsed() < BEAT_LIMIT)
    }

    /// Whether events are looked at; false before the first time.
    pub(crate) fn beats(&self) -> bool {
        self.last_beat().is_some_and(|beat| beat.elapsed() < BEAT_LIMIT)
    }

    fn last_beat(&self) -> Option<Instant> {
        *lock(&self.beat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Lifecycle;

    #[test]
    fn agent_is_ready_while_it_serves_and_beats_once_it_looks_at_events() {
        let lifecycle = Lifecycle::new();
        let health = Health::new(lifecycle.drain());
        assert!(!health.is_ready() && health.is_alive() && !health.beats());
        lifecycle.serve();
        assert!(health.is_ready() && !health.beats());
        health.beat();
        assert!(health.beats());
        lifecycle.stop();
        assert!(!health.is_ready() && health.is_alive());
    }
}
