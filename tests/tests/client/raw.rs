//! Option calls by libc itself: Python's own wrappers hide pointers and lengths.

use serde_json::Value;
use ssa_tests::{
    agent::Agent,
    app::{is_file, python},
    pki::Pki,
    server::{self, Server},
};

pub(crate) const NAME: &str = "peer.ssa.test";

pub(crate) fn echo() -> (Agent, Pki, Server) {
    let (pki, server) = server::echo_peer(NAME);
    (Agent::start(), pki, server)
}

/// Runs a script; a short one has all of `programs/raw.py` at hand.
pub(crate) fn raw(agent: &Agent, script: &str, arguments: &[&str]) -> Value {
    if is_file(script) {
        return python(agent, script, arguments);
    }
    python(agent, &format!("from raw import *\n{script}"), arguments)
}
