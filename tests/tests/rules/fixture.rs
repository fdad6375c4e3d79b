//! Rules, peers and short-cuts of these tests.

use std::process::{Command, Output, Stdio};

use ssa_tests::{
    agent::Agent,
    app::command,
    config::Config,
    pki::{Leaf, Pki},
    server::{self, Server},
    sniffer::holds,
};

pub(crate) const NAME: &str = "peer.ssa.test";

pub(crate) fn echo() -> (Pki, Server) {
    server::echo_peer(NAME)
}

/// A rule: what goes to a port of 127.0.0.1 is TLS to [`NAME`].
pub(crate) fn out(port: u16, pki: &Pki) -> Config {
    out_by("out", port, pki)
}

/// The rule [`out`] under another name.
pub(crate) fn out_by(rule: &str, port: u16, pki: &Pki) -> Config {
    Config::rule(rule).to("127.0.0.1", port).hostname(NAME).trust_only(&pki.ca())
}

/// Begins scripts of applications that know nothing of TLS, and talk to a port.
pub(crate) const TALK: &str = "from talk import *";

/// Runs an application in the service, which is to succeed; returns what it said.
pub(crate) fn run(agent: &Agent, executable: &str, arguments: &[&str]) -> String {
    let output = command(agent, executable).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{executable}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Whether a packet to or from a port has the canary in it.
pub(crate) fn leaks(packet: &[u8], port: u16) -> bool {
    ssa_tests::sniffer::ports(packet).is_some_and(|(from, to)| from == port || to == port) && holds(packet, b"canary")
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// A rule: what listens on a port is served as TLS.
pub(crate) fn served(port: u16, pki: &Pki) -> Config {
    let (chain, key) = pki.write("served", &pki.leaf(Leaf::of(&[NAME])));
    Config::rule("web").inbound().set("port", port).credentials(&chain, &key)
}

/// A rule: everything in a direction is denied.
pub(crate) fn deny(rule: &str, direction: &str) -> Config {
    Config::rule(rule).set("direction", direction).set("mode", "deny")
}

/// An HTTP server that tells each client its address, and knows nothing of TLS. Arguments: address, port.
pub(crate) const SERVE: &str = "http_server.py";

/// Runs curl outside of every service.
pub(crate) fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "--max-time", "10"]).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Asks a port of 127.0.0.1 for `/` over HTTPS, as a client that wants this name.
pub(crate) fn https(name: &str, port: u16, pki: &Pki) -> Output {
    let (resolve, url) = (format!("{name}:{port}:127.0.0.1"), format!("https://{name}:{port}/"));
    curl(&["--cacert", &pki.ca(), "--resolve", &resolve, &url])
}
