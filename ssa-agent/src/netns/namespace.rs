//! Parts of the agent inside one network namespace: listeners for application legs, raw sockets that end holds, the
//! steering program, and a thread that makes sockets there.
//!
//! Made at a namespace's first TLS socket, whose SYN waits meanwhile, and let go when it was not used for a while: what
//! the agent has there would keep the namespace alive.

use std::{
    collections::HashSet,
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    sync::{Arc, Mutex},
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, MapData, SockMap},
};
use socket2::{Domain, Socket, Type};
use ssa_common::{
    socket::Caller,
    steer::{ListenKey, Target},
};
use tokio::{net::TcpListener, sync::mpsc as queue, task::JoinSet};
use tracing::info;

use super::{
    client_listener::{Client, ClientListener, accept, set_up_listener},
    error::Error,
    legs::{AnnouncedLeg, ExpectedLeg, Legs},
    raw::{EndHold, RawSockets},
    thread::NamespaceThread,
};
use crate::{
    kernel::{self, ListenerMaps, Steer, Syn, steer},
    sync::lock,
    sys::on_behalf::{self, SocketOwner},
};

/// A network namespace that is served.
pub(crate) struct Namespace {
    /// Cookie of the namespace (`SO_NETNS_COOKIE` of its sockets).
    pub(crate) cookie: u64,
    maps: Arc<ListenerMaps>,
    /// Map LISTEN of its steering program.
    listen: Mutex<BpfHashMap<MapData, ListenKey, Target>>,
    raw: Arc<RawSockets>,
    legs: Arc<Legs>,
    /// Map TARGETS of its steering program.
    targets: Mutex<SockMap<MapData>>,
    /// Places of [`ClientListener`]s in TARGETS that are taken.
    taken: Arc<Mutex<HashSet<Target>>>,
    clients: queue::Sender<Client>,
    netns: Arc<File>,
    thread: NamespaceThread,
    /// Tasks that accept application legs, for as long as the namespace is there.
    _accepting: JoinSet<()>,
    /// Holds the link of the steering program.
    _steer: Ebpf,
}

/// Target of new connections to an address.
pub(crate) enum Steered<'a> {
    /// The agent's listener takes them.
    Agent(&'a ClientListener),
    /// The kernel's own lookup decides, as there is no TLS socket.
    Nobody,
    /// A socket that is no TLS socket takes them, though a TLS socket listens at every address.
    Other,
}

impl Namespace {
    /// Enters the namespace of a caller's socket. Clients of listeners go to `clients`. Must be called inside the
    /// runtime.
    pub(super) async fn enter(
        maps: Arc<ListenerMaps>,
        clients: queue::Sender<Client>,
        caller: Caller,
    ) -> Result<Arc<Self>, Error> {
        let cookie = caller.netns;
        let (thread, entered) = NamespaceThread::enter(caller).await?;
        let Steer { ebpf, targets, resumed, listen } = steer(&entered.netns, cookie, &maps, &entered.listeners)?;
        let legs = Legs::new(resumed);
        let mut accepting = JoinSet::new();
        for listener in entered.listeners.into_iter().flatten() {
            let listener = TcpListener::from_std(listener.into())?;
            let legs = Arc::clone(&legs);
            accepting.spawn(accept(listener, move |stream, from| legs.arrived(stream, from)));
        }
        info!(cookie, "serving a network namespace");
        Ok(Arc::new(Self {
            cookie,
            maps,
            listen: Mutex::new(listen),
            raw: Arc::new(entered.raw),
            legs,
            targets: Mutex::new(targets),
            taken: Arc::default(),
            clients,
            netns: Arc::new(entered.netns),
            thread,
            _accepting: accepting,
            _steer: ebpf,
        }))
    }

    /// Runs `make` on the namespace's thread: sockets that it makes are of this namespace. It should not block for
    /// long, as jobs run one after the other. Cancellation does not stop it.
    pub(crate) async fn make<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.thread.make(make).await
    }

    /// Makes a socket on behalf of an application, which is of this namespace. Waits for as long as the application's
    /// cgroup is frozen. Errors: as of [`on_behalf::socket`].
    pub(crate) async fn socket(&self, owner: SocketOwner, domain: Domain, kind: Type) -> io::Result<Socket> {
        let netns = Arc::clone(&self.netns);
        // It waits for as long as the cgroup is frozen.
        let made = tokio::task::spawn_blocking(move || on_behalf::socket(&owner, netns.as_fd(), domain, kind));
        made.await.map_err(io::Error::other)?
    }

    /// Makes listeners on behalf of an application that listens, on loopback addresses; the IPv6 one may be missing.
    /// Errors: [`Error::Full`], [`Error::Sockets`], [`Error::Steer`].
    pub(crate) async fn client_listener(&self, owner: SocketOwner) -> Result<ClientListener, Error> {
        let target = {
            let mut taken = lock(&self.taken);
            let mut places = (0..Target::PAIRS).map(Target::pair);
            let free = places.find(|place| !taken.contains(place)).ok_or(Error::Full)?;
            taken.insert(free);
            free
        };
        // Its place is free again if anything fails from here on.
        let mut made = ClientListener { target, taken: Arc::clone(&self.taken), accepting: JoinSet::new() };
        let v4 = self.socket(owner, Domain::IPV4, Type::STREAM).await?;
        set_up_listener(&v4, Ipv4Addr::LOCALHOST.into())?;
        let v6 = self.socket(owner, Domain::IPV6, Type::STREAM).await;
        let v6 = v6.and_then(|v6| set_up_listener(&v6, Ipv6Addr::LOCALHOST.into()).map(|()| v6));
        for (index, listener) in [target, target.second()].into_iter().zip([Ok(v4), v6]) {
            // Without IPv6.
            let Ok(listener) = listener else { continue };
            self.maps.mark_listener(&listener)?;
            let set = lock(&self.targets).set(index.raw(), &listener, 0);
            set.map_err(|source| kernel::Error::Map { name: "TARGETS", source })?;
            let listener = TcpListener::from_std(listener.into())?;
            let (clients, netns) = (self.clients.clone(), self.cookie);
            made.accepting.spawn(accept(listener, move |stream, from| {
                // Full: more than can be served. Dropping it resets it.
                drop(clients.try_send(Client { netns, stream, from }));
            }));
        }
        Ok(made)
    }

    /// Announces an application leg: its SYN may pass, and the connection will be handed over. Errors: the map is full.
    pub(crate) fn expect(&self, syn: &Syn) -> Result<ExpectedLeg, kernel::Error> {
        self.legs.expect(syn)
    }

    /// Raw sockets that end held connects of this namespace.
    pub(crate) fn end_hold(&self) -> Arc<dyn EndHold> {
        Arc::clone(&self.raw) as Arc<dyn EndHold>
    }

    /// Sets the target of new connections to an address. Errors: the map LISTEN is full.
    pub(crate) fn steer(&self, key: &ListenKey, to: Steered<'_>) -> Result<(), kernel::Error> {
        let mut listen = lock(&self.listen);
        match to {
            Steered::Agent(listener) => listen.insert(key, listener.target, 0),
            Steered::Other => listen.insert(key, Target::PASS, 0),
            Steered::Nobody => {
                // Absent only if the map was never written.
                let _absent = listen.remove(key);
                Ok(())
            }
        }
        .map_err(|source| kernel::Error::Map { name: "LISTEN", source })
    }

    /// Announces a leg to a listener, which becomes the socket `id` when it is accepted. Errors: the map LEGS is full.
    pub(crate) fn announce(&self, from: SocketAddr, to: SocketAddr, id: u64) -> Result<AnnouncedLeg, kernel::Error> {
        AnnouncedLeg::announce(&self.maps, self.cookie, (from, to), id)
    }
}
