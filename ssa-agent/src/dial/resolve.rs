//! Resolver of names, as the application itself would: from its network namespace, with its own `/etc/resolv.conf` and
//! `/etc/hosts`.
//!
//! Neither nsswitch.conf(5) nor what it may name besides is looked at.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    Hosts, Resolver,
    config::{LookupIpStrategy, ResolveHosts},
    net::{
        NetError,
        runtime::{RuntimeProvider, TokioHandle, TokioTime, iocompat::AsyncIoTokioAsStd},
    },
    system_conf::parse_resolv_conf,
};
use socket2::{Domain, Socket, Type};
use ssa_common::socket::Caller;
use tokio::{
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use crate::{
    netns::Namespace,
    sys::{
        as_caller::{self, read},
        on_behalf::SocketOwner,
    },
};

/// Reason why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The name servers, or the way there, have failed.
    #[error("{0}")]
    Dns(#[from] NetError),
    /// A file that could not be read; the text says which and why.
    #[error("{0}")]
    File(String),
    /// The application's `/etc/resolv.conf` can't be parsed.
    #[error("/etc/resolv.conf of the application: {0}")]
    ResolvConf(NetError),
    /// The name has addresses, but none that the socket can connect to.
    #[error("the name has no address of the socket's family")]
    NoAddress,
}

/// Address families that a socket can connect to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 and IPv4, IPv6 first.
    Both,
}

/// Files that an application's names are resolved with: its `/etc/resolv.conf` and `/etc/hosts`.
#[derive(Clone)]
pub(crate) struct Files {
    resolv_conf: Vec<u8>,
    hosts: Vec<u8>,
}

impl Files {
    /// Reads the files as the application, which has to be there. Absent ones count as empty. Errors: [`Error::File`].
    pub(crate) async fn read(caller: Caller) -> Result<Self, Error> {
        let read_one = |path: &'static str| {
            tokio::task::spawn_blocking(move || match read(caller, None, Path::new(path)) {
                Ok(read) => Ok(read.files.join(&b'\n')),
                Err(as_caller::Error::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    Ok(Vec::new())
                }
                Err(error) => Err(Error::File(error.to_string())),
            })
        };
        let (resolv_conf, hosts) = tokio::join!(read_one("/etc/resolv.conf"), read_one("/etc/hosts"));
        let failed = |error: tokio::task::JoinError| Error::File(error.to_string());
        let (mut resolv_conf, hosts) = (resolv_conf.map_err(failed)??, hosts.map_err(failed)??);
        if !names_server(&resolv_conf) {
            // resolv.conf(5): the server on this machine, if none is named.
            resolv_conf.extend_from_slice(b"\nnameserver 127.0.0.1\n");
        }
        Ok(Self { resolv_conf, hosts })
    }
}

/// Resolves `host` to its addresses, in the order in which they are to be tried; a literal is given back.
///
/// Errors: [`Error::ResolvConf`], [`Error::Dns`], [`Error::NoAddress`]. Cancellation closes the sockets.
pub(crate) async fn addresses(
    namespace: &Arc<Namespace>,
    files: &Files,
    owner: SocketOwner,
    host: &str,
    families: Families,
) -> Result<Vec<IpAddr>, Error> {
    let (config, mut options) = parse_resolv_conf(&files.resolv_conf).map_err(Error::ResolvConf)?;
    options.ip_strategy = match families {
        Families::V4 => LookupIpStrategy::Ipv4Only,
        Families::Both => LookupIpStrategy::Ipv6AndIpv4,
    };
    // Those of the host are of no interest here.
    options.use_hosts_file = ResolveHosts::Never;
    let sockets = Sockets { namespace: Arc::clone(namespace), owner, handle: TokioHandle::default() };
    let mut resolver = Resolver::builder_with_config(config, sockets).with_options(options).build()?;
    let mut hosts = Hosts::default();
    if hosts.read_hosts_conf(&files.hosts[..]).is_ok() {
        resolver.set_hosts(Arc::new(hosts));
    }
    // A literal is given back as it is.
    let fits = |addr: &IpAddr| families == Families::Both || addr.is_ipv4();
    let found: Vec<IpAddr> = resolver.lookup_ip(host).await?.iter().filter(fits).collect();
    if found.is_empty() { Err(Error::NoAddress) } else { Ok(found) }
}

/// Whether a line of resolv.conf names a server.
fn names_server(text: &[u8]) -> bool {
    String::from_utf8_lossy(text).lines().any(|line| line.trim_start().starts_with("nameserver"))
}

/// Runtime of the resolver that makes its sockets on behalf of the application.
#[derive(Clone)]
struct Sockets {
    namespace: Arc<Namespace>,
    owner: SocketOwner,
    handle: TokioHandle,
}

type Making<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.handle.clone()
    }

    fn connect_tcp(
        &self,
        server_addr: SocketAddr,
        bind_addr: Option<SocketAddr>,
        wait_for: Option<Duration>,
    ) -> Making<Self::Tcp> {
        const LIMIT: Duration = Duration::from_secs(5);
        let socket = self.clone().socket(server_addr, Type::STREAM, bind_addr);
        Box::pin(async move {
            let socket = socket.await?;
            let connected = TcpSocket::from_std_stream(socket.into()).connect(server_addr);
            timeout(wait_for.unwrap_or(LIMIT), connected).await?.map(AsyncIoTokioAsStd)
        })
    }

    fn bind_udp(&self, local_addr: SocketAddr, server_addr: SocketAddr) -> Making<UdpSocket> {
        let socket = self.clone().socket(server_addr, Type::DGRAM, Some(local_addr));
        Box::pin(async move { UdpSocket::from_std(socket.await?.into()) })
    }
}

impl Sockets {
    async fn socket(self, to: SocketAddr, kind: Type, bound: Option<SocketAddr>) -> io::Result<Socket> {
        let socket = self.namespace.socket(self.owner, Domain::for_address(to), kind).await?;
        if let Some(bound) = bound {
            socket.bind(&bound.into())?;
        }
        Ok(socket)
    }
}
