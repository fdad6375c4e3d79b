//! Peers, and a text that must never be seen on the wire.

use std::{thread, time::Duration};

use ssa_tests::{
    pki::{Leaf, Pki},
    server::{self, Server},
    sniffer::{self},
};

pub(crate) const NAME: &str = "peer.ssa.test";

pub(crate) const CANARY: &[u8] = b"canary-7f3a91c2-must-not-be-seen";

pub(crate) fn echo() -> (Pki, Server) {
    server::echo_peer(NAME)
}

/// A TLS server whose handshakes take this long.
pub(crate) fn slow(pki: &Pki, delay: Duration) -> Server {
    let context = server::context(&pki.leaf(Leaf::of(&[NAME])));
    Server::tcp("127.0.0.1", move |stream| {
        thread::sleep(delay);
        if let Some(stream) = server::handshake(&context, stream) {
            server::echo(stream);
        }
    })
}

/// Fails if a packet from or to the server's port holds the canary.
pub(crate) fn assert_unseen(packets: &[Vec<u8>], server: &Server) {
    let port = server.addr.port();
    let of_server: Vec<_> = packets
        .iter()
        .filter(|packet| sniffer::ports(packet).is_some_and(|(from, to)| from == port || to == port))
        .collect();
    let seen = of_server.iter().filter(|packet| sniffer::holds(packet, CANARY)).count();
    assert_eq!(seen, 0, "plaintext in {seen} of {} packets of the server's port", of_server.len());
}

/// Begins scripts that send [`CANARY`].
pub(crate) const SEND_CANARY: &str = "from canary import *\nport, host, ca, *more = args";

pub(crate) fn arguments<'a>(server: &'a str, ca: &'a str) -> [&'a str; 3] {
    [server, NAME, ca]
}
