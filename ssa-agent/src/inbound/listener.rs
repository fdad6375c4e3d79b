//! Listener that is served: its address, its owner, and the way in for its clients.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use ssa_common::{
    socket::{Caller, mapped},
    steer::ListenKey,
};
use tokio::sync::Semaphore;

use crate::{
    enforce::Question,
    netns::{ClientListener, Namespace},
    policy::{Application, Direction},
    revocation::Origin,
};

/// Address that a socket listens at, in its network namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ListenAddr {
    /// Cookie of the network namespace.
    pub(super) netns: u64,
    /// Address and port; the unspecified one for every address.
    pub(super) at: SocketAddr,
    /// Whether it is an IPv6 listener for every address that takes IPv4 connections as well.
    pub(super) dual: bool,
}

/// Quality of a match between a connection and a listener; the greater is better.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Fit {
    /// The listener listens at every address.
    Wildcard,
    /// The listener listens at the connection's very address.
    Exact,
}

impl ListenAddr {
    /// Keys that the steering program finds the listener under.
    pub(super) fn keys(&self) -> Vec<ListenKey> {
        let v4 = self.dual.then(|| self.key(Ipv4Addr::UNSPECIFIED.into()));
        std::iter::once(self.key(self.at.ip())).chain(v4).collect()
    }

    /// Key of an address at the listener's port.
    pub(super) fn key(&self, addr: IpAddr) -> ListenKey {
        ListenKey { addr: mapped(addr), port: self.at.port(), reserved: 0 }
    }

    /// Matches a connection to `local` in a namespace; none if it is not for this listener.
    pub(super) fn fits(&self, netns: u64, local: SocketAddr) -> Option<Fit> {
        if self.netns != netns || self.at.port() != local.port() {
            return None;
        }
        let local = local.ip().to_canonical();
        if self.at.ip() == local {
            return Some(Fit::Exact);
        }
        let every = self.at.ip().is_unspecified() && (self.at.is_ipv4() == local.is_ipv4() || self.dual);
        every.then_some(Fit::Wildcard)
    }
}

/// A listener that is served.
pub(super) struct Listener {
    /// `TLS_ID` of its socket.
    pub(super) id: u64,
    /// Id of its context: settings, certificates.
    pub(super) context: u64,
    /// Process that has called `listen`, and its attached cgroup.
    pub(super) caller: Caller,
    /// Process as profiles see it.
    pub(super) application: Application,
    /// Whether it is a rule that makes it a TLS socket; else the application has asked for it.
    pub(super) by_rule: bool,
    /// Network namespace of the socket.
    pub(super) namespace: Arc<Namespace>,
    /// Place from which servers are asked for the status of its certificates, and of its clients'.
    pub(super) origin: Origin,
    /// Listeners of the agent that take its clients in; shared by the listeners of one owner.
    pub(super) client_listener: Arc<ClientListener>,
    /// Permits of handshakes in flight, one for each.
    pub(super) handshakes: Arc<Semaphore>,
    /// Address that it listens at.
    pub(super) addr: ListenAddr,
    /// Addresses of others that listen on its port, at one address each: they keep what comes there.
    pub(super) passed: Mutex<HashSet<ListenKey>>,
}

impl Listener {
    /// Question that the configuration has to decide for its clients.
    pub(super) fn question(&self) -> Question<'_> {
        Question {
            direction: Direction::In,
            by_rule: self.by_rule,
            caller: &self.caller,
            application: Some(&self.application),
            at: self.addr.at,
            socket_cgroup: self.caller.cgroup,
            hostname: "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(at: &str, dual: bool) -> ListenAddr {
        ListenAddr { netns: 1, at: at.parse().unwrap(), dual }
    }

    #[test]
    fn connection_fits_an_address_better_than_every_address() {
        let fits = |listens: &ListenAddr, local: &str| listens.fits(1, local.parse().unwrap());
        let exact = listens("192.0.2.1:443", false);
        assert_eq!(fits(&exact, "192.0.2.1:443"), Some(Fit::Exact));
        assert_eq!(fits(&exact, "[::ffff:192.0.2.1]:443"), Some(Fit::Exact));
        assert_eq!((fits(&exact, "192.0.2.2:443"), fits(&exact, "192.0.2.1:444")), (None, None));
        let v4 = listens("0.0.0.0:443", false);
        assert_eq!((fits(&v4, "192.0.2.1:443"), fits(&v4, "[2001:db8::1]:443")), (Some(Fit::Wildcard), None));
        let (v6, dual) = (listens("[::]:443", false), listens("[::]:443", true));
        assert_eq!((fits(&v6, "192.0.2.1:443"), fits(&dual, "192.0.2.1:443")), (None, Some(Fit::Wildcard)));
        assert_eq!(dual.fits(2, "192.0.2.1:443".parse().unwrap()), None, "another namespace");
        assert!(Fit::Exact > Fit::Wildcard);
    }

    #[test]
    fn dual_listener_is_steered_for_both_families() {
        assert_eq!(listens("[::]:443", true).keys().len(), 2);
        assert_eq!(listens("[::]:443", false).keys().len(), 1);
        assert_eq!(listens("192.0.2.1:443", false).keys()[0].addr, mapped("192.0.2.1".parse().unwrap()));
    }
}
