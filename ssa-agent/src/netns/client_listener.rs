//! Listeners of the agent's own in a network namespace: for application legs, and for clients of applications.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use ssa_common::steer::Target;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tracing::warn;

use crate::{sync::lock, sys::sockopt};

/// Listeners of the agent for clients of the applications of one cgroup and user. They are made on behalf of these:
/// what may not reach the applications does not reach the agent in their place.
pub(crate) struct ClientListener {
    /// Place of the first listener (IPv4) in the map TARGETS; the IPv6 one is next to it.
    pub(super) target: Target,
    /// Places of the namespace that are taken; its own is given back when it is dropped.
    pub(super) taken: Arc<Mutex<HashSet<Target>>>,
    /// Tasks that accept connections; they end with this.
    pub(super) accepting: JoinSet<()>,
}

impl Drop for ClientListener {
    fn drop(&mut self) {
        lock(&self.taken).remove(&self.target);
    }
}

/// Connection to an application's listener, which the agent has accepted in its place.
pub(crate) struct Client {
    /// Cookie of the network namespace.
    pub(crate) netns: u64,
    /// Connection with the client, which is reset when it is dropped.
    pub(crate) stream: TcpStream,
    /// Address of the client.
    pub(crate) from: SocketAddr,
}

/// Accepts connections and hands them to `deliver`, until it is aborted. Failures are logged, and tried again.
pub(super) async fn accept(listener: TcpListener, deliver: impl Fn(TcpStream, SocketAddr)) {
    let mut logged: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => deliver(stream, from),
            Err(error) => {
                // No descriptor is left, most likely: who waits is accepted when there is one.
                if logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                    warn!(error = &error as &dyn std::error::Error, "accepting a connection failed; trying again");
                    logged = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Makes a listener for application legs, in this thread's namespace, on a port that the kernel chooses.
pub(super) fn leg_listener(addr: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(addr, 0)), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    set_up_listener(&socket, addr)?;
    Ok(socket)
}

/// Binds a listener to a loopback address. Connections that come out of it are reset when they are closed, until the
/// relay says otherwise: if the agent dies, the kernel itself resets them.
pub(super) fn set_up_listener(socket: &Socket, addr: IpAddr) -> io::Result<()> {
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
