//! A peer for a policy to be tried on.

use ssa_tests::{
    pki::{Leaf, Pki},
    server::Server,
};

pub(crate) const NAME: &str = "peer.ssa.test";

pub(crate) fn echo() -> (Pki, Server) {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    (pki, server)
}
