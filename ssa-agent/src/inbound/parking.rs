//! SYNs that came to a listener before it was served: the hooks have dropped each, and it is sent again when the
//! listener is served, or turns out to be a plain one. Without that its client would wait for a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use ssa_common::limits::PARKED_MAX;
use tracing::debug;

use super::inbound::Inbound;
use crate::{kernel::Syn, netns::Namespace, sync::lock};

/// Age at which the client has sent its SYN again by itself.
const OLD: Duration = Duration::from_secs(1);

/// Parked SYNs, by the id of the listener, each with the time at which it came (`CLOCK_MONOTONIC`).
#[derive(Default)]
pub(crate) struct Parking(Mutex<HashMap<u64, Vec<(Duration, Syn)>>>);

impl Parking {
    /// Parks a SYN. Those that are too old go.
    fn park(&self, id: u64, came: Duration, syn: Syn) {
        let (mut parked, now) = (lock(&self.0), now());
        parked.retain(|_id, syns| {
            syns.retain(|(came, _syn)| now.saturating_sub(*came) < OLD);
            !syns.is_empty()
        });
        let syns = parked.entry(id).or_default();
        if syns.len() < PARKED_MAX as usize {
            syns.push((came, syn));
        }
    }

    /// Takes the SYNs that are parked for a listener.
    pub(super) fn take(&self, id: u64) -> Vec<Syn> {
        let (syns, now) = (lock(&self.0).remove(&id).unwrap_or_default(), now());
        syns.into_iter().filter(|(came, _syn)| now.saturating_sub(*came) < OLD).map(|(_came, syn)| syn).collect()
    }
}

impl Inbound {
    /// Takes a SYN that was parked at `time`, in nanoseconds: it is sent again at once if its listener is served by now.
    pub(crate) fn parked(&self, id: u64, time: u64, syn: Syn) {
        let came = Duration::from_nanos(time);
        self.parking.park(id, came, syn);
        // After it: whoever begins to serve the listener takes what is parked, or is seen here.
        if let Some(listener) = self.listeners.get(id) {
            self.send_parked(id, &listener.namespace);
        }
    }

    /// Sends the SYNs again that are parked for a listener.
    pub(super) fn send_parked(&self, id: u64, namespace: &Arc<Namespace>) {
        let syns = self.parking.take(id);
        let raw = namespace.end_hold();
        for syn in syns {
            if let Err(error) = raw.resume(&syn) {
                debug!(%error, "a parked SYN can't be sent; its client sends it again");
            }
        }
    }
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
