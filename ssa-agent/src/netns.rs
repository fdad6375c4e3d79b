//! What the agent has inside each network namespace: listeners for application legs, raw sockets
//! that end holds, the steering program, and a thread that makes sockets there.
//!
//! Made at a namespace's first TLS socket, whose SYN waits meanwhile, and let go when it was not used for a while: what the
//! agent has there would keep the namespace alive.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap as BpfHashMap, MapData, SockMap},
    programs::SkLookup,
};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use ssa_common::{
    socket::{Caller, mapped},
    steer::{FourTuple, LegKey, ListenKey, Target},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OnceCell, mpsc as queue, oneshot},
    task::JoinSet,
};
use tracing::{debug, info, warn};

use crate::{
    kernel::{
        self, STEER,
        maps::Maps,
        on_behalf::{self, Owner},
        packet::{Errno, Syn},
    },
    sockopt,
};

/// Why a namespace can't be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("process {tgid} can't be found")]
    Gone { tgid: u32, source: io::Error },
    #[error("steering in the network namespace failed")]
    Steer(#[from] kernel::Error),
    #[error("sockets in the network namespace failed")]
    Sockets(#[from] io::Error),
    #[error("programs of too many cgroups listen in the network namespace")]
    Full,
    #[error("the socket is of another network namespace than its program, and of none served before")]
    Stranger,
}

/// The namespaces that are served, by cookie.
pub(crate) struct Namespaces {
    maps: Arc<Maps>,
    clients: queue::Sender<Client>,
    made: Mutex<HashMap<u64, Entry>>,
}

/// A namespace that is made, or about to be.
#[derive(Default)]
struct Entry {
    cell: Arc<OnceCell<Arc<Namespace>>>,
    /// Since when nobody uses it, as far as was seen.
    idle: Option<Instant>,
}

/// How long a namespace that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(10);

impl Namespaces {
    /// Clients of programs' listeners go to `clients`.
    pub(crate) fn new(maps: Arc<Maps>, clients: queue::Sender<Client>) -> Self {
        Self { maps, clients, made: Mutex::default() }
    }

    /// Whether a caller's namespace is served, or is about to be.
    pub(crate) fn has(&self, caller: &Caller) -> bool {
        lock(&self.made).contains_key(&caller.netns)
    }

    /// The namespace of a caller's socket, made at first use.
    pub(crate) async fn of(&self, caller: &Caller) -> Result<Arc<Namespace>, Error> {
        let cell = Arc::clone(&lock(&self.made).entry(caller.netns).or_default().cell);
        let namespace =
            cell.get_or_try_init(|| Namespace::enter(Arc::clone(&self.maps), self.clients.clone(), *caller)).await?;
        Ok(Arc::clone(namespace))
    }

    /// Lets go of namespaces that nobody has used for a while: no connection, no listener, no dial.
    pub(crate) fn forget_idle(&self) {
        let now = Instant::now();
        let mut gone = Vec::new();
        lock(&self.made).retain(|cookie, entry| {
            let used = Arc::strong_count(&entry.cell) > 1
                || entry.cell.get().is_some_and(|namespace| Arc::strong_count(namespace) > 1);
            entry.idle = if used { None } else { entry.idle.or(Some(now)) };
            let keep = entry.idle.is_none_or(|since| now.duration_since(since) < IDLE);
            if !keep {
                debug!(cookie, "letting go of a network namespace");
                gone.push(std::mem::take(&mut entry.cell));
            }
            keep
        });
        // Outside of the lock: sockets are closed, and a program detached.
        drop(gone);
    }
}

/// A connection to a program's listener, which the agent has accepted.
pub(crate) struct Client {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) stream: TcpStream,
    pub(crate) from: SocketAddr,
}

/// One network namespace.
pub(crate) struct Namespace {
    pub(crate) cookie: u64,
    maps: Arc<Maps>,
    listen: Mutex<BpfHashMap<MapData, ListenKey, Target>>,
    raw: Raw,
    resumed: Mutex<BpfHashMap<MapData, FourTuple, u32>>,
    expected: Mutex<HashMap<Tuple, Expected>>,
    targets: Mutex<SockMap<MapData>>,
    /// Places of [`Entrance`]s among the targets that are taken.
    taken: Arc<Mutex<HashSet<Target>>>,
    clients: queue::Sender<Client>,
    netns: Arc<File>,
    maker: mpsc::Sender<Job>,
    /// They accept, for as long as the namespace is there.
    accepting: Mutex<JoinSet<()>>,
    /// Holds the link of the steering program.
    _steer: Ebpf,
}

/// The agent's listeners for clients of the programs of one cgroup and user. They are made on behalf of these: what may
/// not reach the programs does not reach the agent in their place.
pub(crate) struct Entrance {
    /// Place of the first among the targets.
    target: Target,
    taken: Arc<Mutex<HashSet<Target>>>,
    /// They accept, for as long as somebody listens.
    accepting: JoinSet<()>,
}

impl Drop for Entrance {
    fn drop(&mut self) {
        lock(&self.taken).remove(&self.target);
    }
}

/// Source and target of a SYN.
type Tuple = (SocketAddr, SocketAddr);
type Job = Box<dyn FnOnce() + Send>;

/// An application leg that was resumed and is to arrive.
struct Expected {
    isn: u32,
    arrived: oneshot::Sender<TcpStream>,
}

/// What a thread makes inside a namespace.
struct Made {
    /// For application legs, by their place among the targets.
    listeners: [Option<Socket>; 2],
    raw: Raw,
    netns: File,
}

/// Sockets that send the packets which end holds.
pub(crate) struct Raw {
    v4: Socket,
    v6: Option<Socket>,
}

impl Namespace {
    async fn enter(maps: Arc<Maps>, clients: queue::Sender<Client>, caller: Caller) -> Result<Arc<Self>, Error> {
        let (maker, jobs) = mpsc::channel::<Job>();
        let (made, wait) = oneshot::channel();
        thread::Builder::new().name(format!("netns-{}", caller.netns)).spawn(move || {
            let entered = enter(&caller);
            let failed = entered.is_err();
            // The receiver is only gone if the task was cancelled; then there is nobody to serve.
            if made.send(entered).is_err() || failed {
                return;
            }
            for job in jobs {
                job();
            }
        })?;
        let made = wait.await.map_err(|_gone| io::Error::other("the namespace's thread died"))??;
        let Steer { ebpf: steer, targets, resumed, listen } = steer(&made.netns, caller.netns, &maps, &made.listeners)?;
        let namespace = Arc::new(Self {
            cookie: caller.netns,
            maps,
            listen: Mutex::new(listen),
            raw: made.raw,
            resumed: Mutex::new(resumed),
            expected: Mutex::default(),
            targets: Mutex::new(targets),
            taken: Arc::default(),
            clients,
            netns: Arc::new(made.netns),
            maker,
            accepting: Mutex::default(),
            _steer: steer,
        });
        for listener in made.listeners.into_iter().flatten() {
            let listener = TcpListener::from_std(listener.into())?;
            lock(&namespace.accepting).spawn(accept(Arc::downgrade(&namespace), listener, None));
        }
        info!(cookie = caller.netns, "serving a network namespace");
        Ok(namespace)
    }

    /// Runs `make` on the namespace's thread: sockets that it makes are of this namespace.
    pub(crate) async fn make<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (made, wait) = oneshot::channel();
        let job = Box::new(move || {
            // Nobody waits if the dial was cancelled; the socket is closed.
            let _unwanted = made.send(make());
        });
        let dead = || io::Error::other("the namespace's thread died");
        self.maker.send(job).map_err(|_job| dead())?;
        wait.await.map_err(|_gone| dead())?
    }

    /// Makes a socket on behalf of a program, which is of this namespace.
    pub(crate) async fn socket(&self, owner: Owner, domain: Domain, kind: Type) -> io::Result<Socket> {
        let netns = Arc::clone(&self.netns);
        // It waits for as long as the cgroup is frozen.
        let made = tokio::task::spawn_blocking(move || on_behalf::socket(&owner, netns.as_fd(), domain, kind));
        made.await.map_err(io::Error::other)?
    }

    /// Makes listeners on behalf of a program that listens.
    pub(crate) async fn entrance(self: &Arc<Self>, owner: Owner) -> Result<Entrance, Error> {
        let target = {
            let mut taken = lock(&self.taken);
            let mut places = (0..Target::PAIRS).map(Target::pair);
            let free = places.find(|place| !taken.contains(place)).ok_or(Error::Full)?;
            taken.insert(free);
            free
        };
        // Its place is free again if anything fails from here on.
        let mut entrance = Entrance { target, taken: Arc::clone(&self.taken), accepting: JoinSet::new() };
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
            entrance.accepting.spawn(accept(Arc::downgrade(self), listener, Some(self.clients.clone())));
        }
        Ok(entrance)
    }

    /// Announces an application leg: its SYN may pass, and the connection will be handed over.
    pub(crate) fn expect(self: &Arc<Self>, syn: &Syn) -> Result<Arrival, kernel::Error> {
        let tuple = (syn.source, syn.target);
        let key = resumed_key(&tuple);
        lock(&self.resumed).insert(key, 1, 0).map_err(|source| kernel::Error::Map { name: "RESUMED", source })?;
        let (arrived, wait) = oneshot::channel();
        lock(&self.expected).insert(tuple, Expected { isn: syn.isn, arrived });
        Ok(Arrival { namespace: Arc::clone(self), tuple, wait })
    }

    /// Lets a held SYN pass.
    pub(crate) fn resume(&self, syn: &Syn) -> io::Result<()> {
        self.raw.send(&syn.resume(), syn.target)
    }

    /// Sends what ends holds.
    pub(crate) fn raw(&self) -> &Raw {
        &self.raw
    }

    /// Says what becomes of new connections to an address.
    pub(crate) fn steer(&self, key: &ListenKey, to: Steered<'_>) -> Result<(), kernel::Error> {
        let mut listen = lock(&self.listen);
        match to {
            Steered::Agent(entrance) => listen.insert(key, entrance.target, 0),
            Steered::Other => listen.insert(key, Target::PASS, 0),
            Steered::Nobody => {
                // Absent only if the map was never written.
                let _absent = listen.remove(key);
                Ok(())
            }
        }
        .map_err(|source| kernel::Error::Map { name: "LISTEN", source })
    }

    /// Announces a leg to a listener, which becomes the socket `id` when it is accepted.
    pub(crate) fn announce(
        self: &Arc<Self>,
        from: SocketAddr,
        to: SocketAddr,
        id: u64,
    ) -> Result<Passage, kernel::Error> {
        let tuple = resumed_key(&(from, to));
        let passage = Passage { namespace: Arc::clone(self), key: LegKey { netns: self.cookie, tuple, reserved: 0 } };
        self.maps.announce_leg(&passage.key, id)?;
        Ok(passage)
    }

    /// Hands an accepted connection to who resumed it. Anybody else's is dropped, which resets it.
    fn arrived(&self, stream: TcpStream, from: SocketAddr) {
        let Ok(target) = stream.local_addr() else { return };
        let tuple = (from, target);
        let isn = sockopt::saved_syn(&stream).ok().and_then(|headers| saved_isn(&headers));
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

impl Raw {
    /// Makes them in this thread's namespace.
    fn new() -> io::Result<Self> {
        let v4 = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        v4.set_nonblocking(true)?;
        Ok(Self { v4, v6: raw6().ok() })
    }

    /// Makes them in a caller's namespace, where nothing else can be had.
    pub(crate) async fn of(caller: Caller) -> Result<Self, Error> {
        let (made, wait) = oneshot::channel();
        thread::Builder::new().name("refusing".to_owned()).spawn(move || {
            // Nobody waits if the application has given up.
            let _unwanted = made.send(join(&caller).and_then(|_netns| Ok(Self::new()?)));
        })?;
        wait.await.map_err(|_gone| io::Error::other("the namespace's thread died"))?
    }

    /// Makes a held connect fail, if its socket is not just locked by another call.
    pub(crate) fn refuse(&self, syn: &Syn, errno: Errno) -> io::Result<()> {
        self.send(&syn.refuse(errno), syn.source)
    }

    fn send(&self, packet: &[u8], mut to: SocketAddr) -> io::Result<()> {
        // A raw socket takes no port.
        to.set_port(0);
        let raw = match to {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        raw.send_to(packet, &SockAddr::from(to)).map(drop)
    }
}

/// Where new connections to an address go.
pub(crate) enum Steered<'a> {
    /// To the agent.
    Agent(&'a Entrance),
    /// Where the kernel sends them, as there is no TLS socket.
    Nobody,
    /// To a socket that is no TLS socket, though one listens at every address.
    Other,
}

/// An application leg that was announced. Dropping it withdraws the announcement.
pub(crate) struct Arrival {
    namespace: Arc<Namespace>,
    tuple: Tuple,
    wait: oneshot::Receiver<TcpStream>,
}

impl Arrival {
    /// Waits for the leg. None if a newer announcement took this one's place.
    pub(crate) async fn leg(&mut self) -> Option<TcpStream> {
        (&mut self.wait).await.ok()
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        lock(&self.namespace.expected).remove(&self.tuple);
        // Absent only if the map was never written.
        let _absent = lock(&self.namespace.resumed).remove(&resumed_key(&self.tuple));
    }
}

/// An announced leg to a listener. Dropping it withdraws the announcement.
pub(crate) struct Passage {
    namespace: Arc<Namespace>,
    key: LegKey,
}

impl Passage {
    /// Whether the listener's side is established.
    pub(crate) fn withdraw(&self) -> bool {
        !self.namespace.maps.withdraw_leg(&self.key)
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        // Absent if it has passed.
        let _passed = self.namespace.maps.withdraw_leg(&self.key);
    }
}

/// Accepts application legs, or clients of programs' listeners.
async fn accept(namespace: Weak<Namespace>, listener: TcpListener, clients: Option<queue::Sender<Client>>) {
    let mut told: Option<Instant> = None;
    loop {
        let accepted = listener.accept().await;
        let Some(namespace) = namespace.upgrade() else { return };
        match accepted {
            Ok((stream, from)) => match &clients {
                None => namespace.arrived(stream, from),
                // Full: more than can be served. Dropping it resets it.
                Some(clients) => drop(clients.try_send(Client { namespace, stream, from })),
            },
            Err(error) => {
                // No descriptor is left, most likely: who waits is accepted when there is one.
                if told.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                    warn!(error = &error as &dyn std::error::Error, "accepting a connection failed; trying again");
                    told = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Moves this thread into the caller's namespace, unless it is there, and makes what is needed.
fn enter(caller: &Caller) -> Result<Made, Error> {
    let netns = join(caller)?;
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    let listeners = [Some(listener(v4)?), listener(v6).ok()];
    Ok(Made { listeners, raw: Raw::new()?, netns })
}

/// Moves this thread into the caller's namespace, unless it is there.
fn join(caller: &Caller) -> Result<File, Error> {
    let own = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut netns = File::open("/proc/thread-self/ns/net")?;
    if sockopt::netns_cookie(&own)? != caller.netns {
        let gone = |source| Error::Gone { tgid: caller.tgid, source };
        // The thread's namespace; it may have ended since, and then the process's is as good a guess.
        netns = File::open(format!("/proc/{}/task/{}/ns/net", caller.tgid, caller.tid))
            .or_else(|_ended| File::open(format!("/proc/{}/ns/net", caller.tgid)))
            .map_err(gone)?;
        setns(&netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        let there = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        if sockopt::netns_cookie(&there)? != caller.netns {
            return Err(Error::Stranger);
        }
    }
    Ok(netns)
}

fn raw6() -> io::Result<Socket> {
    let raw = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    raw.set_header_included_v6(true)?;
    raw.set_nonblocking(true)?;
    Ok(raw)
}

fn listener(addr: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(addr, 0)), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    set_up_listener(&socket, addr)?;
    Ok(socket)
}

/// Connections that come out of it are reset when they are closed, until the relay says otherwise: if the agent dies,
/// the kernel itself resets them.
fn set_up_listener(socket: &Socket, addr: IpAddr) -> io::Result<()> {
    const BACKLOG: i32 = 4096;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_out_of_band_inline(true)?;
    socket.set_tcp_nodelay(true)?;
    sockopt::save_syns(socket)?;
    socket.bind(&SocketAddr::new(addr, 0).into())?;
    socket.listen(BACKLOG)
}

/// The steering program and its maps.
struct Steer {
    ebpf: Ebpf,
    targets: SockMap<MapData>,
    resumed: BpfHashMap<MapData, FourTuple, u32>,
    listen: BpfHashMap<MapData, ListenKey, Target>,
}

/// Loads the steering program into a namespace. It goes with the agent: holds don't depend on it.
fn steer(netns: &File, cookie: u64, maps: &Maps, listeners: &[Option<Socket>]) -> Result<Steer, kernel::Error> {
    let failed = |source| kernel::Error::Map { name: "TARGETS", source };
    let missing = |name| kernel::Error::Missing { name };
    let mut loader = EbpfLoader::new();
    loader.btf(None).map_pin_path("LEGS", maps.pin("LEGS")).override_global("NETNS", &cookie, true);
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
    let broken = |source| kernel::Error::Program { name, source: Box::new(source) };
    let program: &mut SkLookup = ebpf.program_mut(name).ok_or(missing(name))?.try_into().map_err(broken)?;
    program.load().map_err(broken)?;
    program.attach(netns.as_fd()).map_err(broken)?;
    let (resumed, listen) = (take(&mut ebpf, "RESUMED")?, take(&mut ebpf, "LISTEN")?);
    Ok(Steer { ebpf, targets, resumed, listen })
}

fn take<K: aya::Pod, V: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<BpfHashMap<MapData, K, V>, kernel::Error> {
    let map = ebpf.take_map(name).ok_or(kernel::Error::Missing { name })?;
    BpfHashMap::try_from(map).map_err(|source| kernel::Error::Map { name, source })
}

/// The initial sequence number in the headers that `TCP_SAVED_SYN` gives.
fn saved_isn(headers: &[u8]) -> Option<u32> {
    let ip_len = match headers.first()? >> 4 {
        4 => usize::from(headers[0] & 0x0f) * 4,
        _ => 40,
    };
    kernel::packet::be32(headers, ip_len + 4)
}

fn resumed_key((source, target): &Tuple) -> FourTuple {
    FourTuple {
        source: mapped(source.ip()),
        target: mapped(target.ip()),
        source_port: source.port(),
        target_port: target.port(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
