//! A service that listens, and clients of it.

use std::{
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use openssl::ssl::{SslConnector, SslMethod, SslStream};
use serde_json::Value;
use ssa_tests::{
    agent::Agent,
    app::{App, is_file},
    pki::{Leaf, Pki},
};

pub(crate) const NAME: &str = "server.ssa.test";

pub(crate) struct Site {
    pub(crate) agent: Agent,
    pub(crate) pki: Pki,
    pub(crate) chain: String,
    pub(crate) key: String,
}

pub(crate) fn site() -> Site {
    let pki = Pki::new();
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME, "localhost", "127.0.0.1", "::1"])));
    Site { agent: Agent::start(), pki, chain, key }
}

impl Site {
    /// Starts an application that listens with the chain and the key, which come before other arguments. A short script has all
    /// of `programs/serving.py` at hand.
    pub(crate) fn start(&self, script: &str, more: &[&str]) -> App {
        let script = if is_file(script) { script.to_owned() } else { format!("from serving import *\n{script}") };
        let arguments: Vec<&str> =
            [self.chain.as_str(), self.key.as_str()].into_iter().chain(more.iter().copied()).collect();
        App::start(&self.agent, &script, &arguments)
    }
}

pub(crate) fn connector(pki: &Pki, change: impl FnOnce(&mut openssl::ssl::SslConnectorBuilder)) -> SslConnector {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_ca_file(pki.ca()).unwrap();
    change(&mut builder);
    builder.build()
}

pub(crate) fn connect(connector: &SslConnector, addr: SocketAddr, name: &str) -> Result<SslStream<TcpStream>, String> {
    let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    connector.connect(name, stream).map_err(|error| error.to_string())
}

pub(crate) fn addr(port: &Value) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], u16::try_from(port.as_u64().unwrap()).unwrap()))
}

/// A child that is killed when it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Runs `openssl s_client` against a listener, and returns what it says. `input` is a shell command that holds its input open.
pub(crate) fn s_client(input: &str, addr: impl std::fmt::Display, ca: &str, arguments: &str) -> String {
    let line =
        format!("({input}) | timeout 10 openssl s_client -connect {addr} -servername {NAME} -CAfile {ca} {arguments}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]);
    run(shell).1
}

/// Runs a command to its end: whether it succeeded, and what it said.
pub(crate) fn run(mut command: Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().expect("it is installed");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
