//! A peer for a policy to be tried on.

use ssa_tests::{
    pki::Pki,
    server::{self, Server},
};

pub(crate) const NAME: &str = "peer.ssa.test";

pub(crate) fn echo() -> (Pki, Server) {
    server::echo_peer(NAME)
}
