//! Threads of network namespaces: a socket that is made on one is of its namespace.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    sync::mpsc,
    thread,
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use ssa_common::socket::Caller;
use tokio::sync::oneshot;

use super::{client_listener::leg_listener, error::Error, raw::RawSockets};
use crate::sys::sockopt;

/// Job of the thread.
type Job = Box<dyn FnOnce() + Send>;

/// Thread of a network namespace, which ends when this is dropped.
pub(super) struct NamespaceThread(mpsc::Sender<Job>);

/// Sockets that the thread makes when it has entered the namespace.
pub(super) struct Entered {
    /// Listeners for application legs, IPv4 and IPv6, by their place in TARGETS; the second may be missing.
    pub(super) listeners: [Option<Socket>; 2],
    /// Raw sockets that end holds.
    pub(super) raw: RawSockets,
    /// Network namespace itself, as /proc shows it.
    pub(super) netns: File,
}

impl NamespaceThread {
    /// Starts a thread in the namespace of a caller's socket. Errors: [`Error::ProcessGone`],
    /// [`Error::WrongNamespace`], [`Error::Sockets`]. Cancellation ends the thread.
    pub(super) async fn enter(caller: Caller) -> Result<(Self, Entered), Error> {
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
        let entered = wait.await.map_err(|_gone| dead())??;
        Ok((Self(maker), entered))
    }

    /// Runs `make` on the thread, after what was asked for before. Cancellation does not stop it: its result is
    /// dropped.
    pub(super) async fn make<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (made, wait) = oneshot::channel();
        let job = Box::new(move || {
            // Nobody waits if the dial was cancelled; the socket is closed.
            let _unwanted = made.send(make());
        });
        self.0.send(job).map_err(|_job| dead())?;
        wait.await.map_err(|_gone| dead())?
    }
}

fn dead() -> io::Error {
    io::Error::other("the namespace's thread died")
}

/// Makes raw sockets in a caller's namespace, where nothing else can be had.
pub(crate) async fn raw_sockets_of(caller: Caller) -> Result<RawSockets, Error> {
    let (made, wait) = oneshot::channel();
    thread::Builder::new().name("refusing".to_owned()).spawn(move || {
        // Nobody waits if the application has given up.
        let _unwanted = made.send(join(&caller).and_then(|_netns| Ok(RawSockets::new()?)));
    })?;
    wait.await.map_err(|_gone| dead())?
}

/// Moves this thread into the caller's namespace, unless it is there, and makes what is needed.
fn enter(caller: &Caller) -> Result<Entered, Error> {
    let netns = join(caller)?;
    let listeners = [Some(leg_listener(Ipv4Addr::LOCALHOST.into())?), leg_listener(Ipv6Addr::LOCALHOST.into()).ok()];
    Ok(Entered { listeners, raw: RawSockets::new()?, netns })
}

/// Moves this thread into the caller's namespace, unless it is there.
fn join(caller: &Caller) -> Result<File, Error> {
    let own = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut netns = File::open("/proc/thread-self/ns/net")?;
    if sockopt::netns_cookie(&own)? != caller.netns {
        let gone = |source| Error::ProcessGone { tgid: caller.tgid, source };
        // The thread's namespace; it may have ended since, and then the process's is as good a guess.
        netns = File::open(format!("/proc/{}/task/{}/ns/net", caller.tgid, caller.tid))
            .or_else(|_ended| File::open(format!("/proc/{}/ns/net", caller.tgid)))
            .map_err(gone)?;
        setns(&netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        let there = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        if sockopt::netns_cookie(&there)? != caller.netns {
            return Err(Error::WrongNamespace);
        }
    }
    Ok(netns)
}
