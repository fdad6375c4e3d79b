//! Connections inside the host: application legs, which applications connect, and legs to their listeners.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use aya::maps::{HashMap as BpfHashMap, MapData};
use ssa_common::{
    socket::mapped,
    steer::{FourTuple, LegKey},
};
use tokio::{net::TcpStream, sync::oneshot};
use tracing::debug;

use crate::{
    kernel::{self, ListenerMaps, Syn, be32},
    sync::lock,
    sys::sockopt,
};

/// Source and target of a SYN.
type Tuple = (SocketAddr, SocketAddr);

/// Application legs of one namespace that were resumed and are to arrive.
pub(super) struct Legs {
    /// Map RESUMED of the namespace's steering program.
    resumed: Mutex<BpfHashMap<MapData, FourTuple, u32>>,
    expected: Mutex<HashMap<Tuple, Expected>>,
}

/// An application leg that was resumed and is to arrive.
struct Expected {
    /// Initial sequence number of its SYN.
    isn: u32,
    arrived: oneshot::Sender<TcpStream>,
}

impl Legs {
    /// Makes the legs of a namespace whose steering program has this map.
    pub(super) fn new(resumed: BpfHashMap<MapData, FourTuple, u32>) -> Arc<Self> {
        Arc::new(Self { resumed: Mutex::new(resumed), expected: Mutex::default() })
    }

    /// Announces an application leg: its SYN may pass, and the connection will be handed over. Errors: the map is full.
    pub(super) fn expect(self: &Arc<Self>, syn: &Syn) -> Result<ExpectedLeg, kernel::Error> {
        let tuple = (syn.source, syn.target);
        let key = resumed_key(&tuple);
        lock(&self.resumed).insert(key, 1, 0).map_err(|source| kernel::Error::Map { name: "RESUMED", source })?;
        let (arrived, wait) = oneshot::channel();
        lock(&self.expected).insert(tuple, Expected { isn: syn.isn, arrived });
        Ok(ExpectedLeg { legs: Arc::clone(self), tuple, wait })
    }

    /// Hands an accepted connection to the one that has announced it, by addresses and initial sequence number. Anybody
    /// else's is dropped, which resets it.
    pub(super) fn arrived(&self, stream: TcpStream, from: SocketAddr) {
        let Ok(target) = stream.local_addr() else { return };
        let tuple = (from, target);
        let saved = sockopt::saved_syn(&stream).ok().and_then(|headers| saved_isn(&headers));
        let isn = saved.or_else(|| sockopt::received_isn(&stream).ok());
        let expected = {
            let mut expected = lock(&self.expected);
            match expected.get(&tuple) {
                Some(entry) if Some(entry.isn) == isn => expected.remove(&tuple),
                Some(_) | None => None,
            }
        };
        match expected {
            Some(expected) => {
                // Nobody waits if the application has given up; dropping the stream resets it.
                let _unwanted = expected.arrived.send(stream);
            }
            None => debug!(%from, %target, "reset a connection that was not resumed"),
        }
    }
}

/// An application leg that was announced. Dropping it withdraws the announcement.
pub(crate) struct ExpectedLeg {
    legs: Arc<Legs>,
    tuple: Tuple,
    wait: oneshot::Receiver<TcpStream>,
}

impl ExpectedLeg {
    /// Waits for the leg; the caller sets the time limit. None if a newer announcement took this one's place.
    /// Cancellation loses nothing.
    pub(crate) async fn leg(&mut self) -> Option<TcpStream> {
        (&mut self.wait).await.ok()
    }
}

impl Drop for ExpectedLeg {
    fn drop(&mut self) {
        lock(&self.legs.expected).remove(&self.tuple);
        // Absent only if the map was never written.
        let _absent = lock(&self.legs.resumed).remove(&resumed_key(&self.tuple));
    }
}

/// An announced leg to a listener. Dropping it withdraws the announcement.
pub(crate) struct AnnouncedLeg {
    maps: Arc<ListenerMaps>,
    /// Key in the map LEGS; none once it was withdrawn.
    key: Option<LegKey>,
}

impl AnnouncedLeg {
    /// Lets a leg from one address to a listener's pass, once: it becomes the socket `id` when it is accepted. Errors:
    /// the map is full.
    pub(super) fn announce(
        maps: &Arc<ListenerMaps>,
        netns: u64,
        (from, to): (SocketAddr, SocketAddr),
        id: u64,
    ) -> Result<Self, kernel::Error> {
        let key = LegKey { netns, tuple: resumed_key(&(from, to)), reserved: 0 };
        maps.announce_leg(&key, id)?;
        Ok(Self { maps: Arc::clone(maps), key: Some(key) })
    }

    /// Takes the announcement back. True if the leg has passed, so that the listener's side is established.
    pub(crate) fn withdraw(mut self) -> bool {
        self.key.take().is_some_and(|key| !self.maps.withdraw_leg(&key))
    }
}

impl Drop for AnnouncedLeg {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            // Absent if it has passed.
            let _passed = self.maps.withdraw_leg(&key);
        }
    }
}

/// Initial sequence number in the headers that `TCP_SAVED_SYN` gives.
fn saved_isn(headers: &[u8]) -> Option<u32> {
    let ip_len = match headers.first()? >> 4 {
        4 => usize::from(headers[0] & 0x0f) * 4,
        _ => 40,
    };
    be32(headers, ip_len + 4)
}

/// Key of a SYN in the maps of the steering program and the ingress hook.
fn resumed_key((source, target): &Tuple) -> FourTuple {
    FourTuple {
        source: mapped(source.ip()),
        target: mapped(target.ip()),
        source_port: source.port(),
        target_port: target.port(),
    }
}
