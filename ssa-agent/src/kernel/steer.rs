//! Steering program of a network namespace (sk_lookup).

use std::{fs::File, os::fd::AsFd as _};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap as BpfHashMap, MapData, SockMap},
    programs::SkLookup,
};
use socket2::Socket;
use ssa_common::steer::{FourTuple, ListenKey, Target};

use super::{error::Error, maps::listeners::ListenerMaps, objects::STEER};

/// Steering program and its maps.
pub(crate) struct Steer {
    /// Object that holds the link of the program: dropping it detaches.
    pub(crate) ebpf: Ebpf,
    /// Map TARGETS: the agent's listeners, by their places ([`Target`]).
    pub(crate) targets: SockMap<MapData>,
    /// Map RESUMED: application legs that were resumed, and may pass to the agent.
    pub(crate) resumed: BpfHashMap<MapData, FourTuple, u32>,
    /// Map LISTEN: addresses at which applications listen, each with the place of the listener to take instead, or an
    /// action.
    pub(crate) listen: BpfHashMap<MapData, ListenKey, Target>,
}

/// Loads the steering program into a namespace, with the agent's listeners for application legs. It goes with the
/// agent: holds don't depend on it.
pub(crate) fn steer(
    netns: &File,
    cookie: u64,
    maps: &ListenerMaps,
    listeners: &[Option<Socket>],
) -> Result<Steer, Error> {
    let failed = |source| Error::Map { name: "TARGETS", source };
    let missing = |name| Error::Missing { name };
    let mut loader = EbpfLoader::new();
    loader.btf(None).map_pin_path("LEGS", maps.legs_pin()).override_global("NETNS", &cookie, true);
    let mut ebpf = loader.load(&STEER.0).map_err(Box::new)?;
    let map = ebpf.take_map("TARGETS").ok_or(missing("TARGETS"))?;
    let mut targets = SockMap::try_from(map).map_err(failed)?;
    for (index, listener) in (0..).zip(listeners) {
        if let Some(listener) = listener {
            maps.mark_listener(listener)?;
            targets.set(index, listener, 0).map_err(failed)?;
        }
    }
    let name = "ssa_steer";
    let broken = |source| Error::Program { name, source: Box::new(source) };
    let program: &mut SkLookup = ebpf.program_mut(name).ok_or(missing(name))?.try_into().map_err(broken)?;
    program.load().map_err(broken)?;
    program.attach(netns.as_fd()).map_err(broken)?;
    let (resumed, listen) = (take(&mut ebpf, "RESUMED")?, take(&mut ebpf, "LISTEN")?);
    Ok(Steer { ebpf, targets, resumed, listen })
}

fn take<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<BpfHashMap<MapData, K, V>, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Missing { name })?;
    BpfHashMap::try_from(map).map_err(|source| Error::Map { name, source })
}
