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
    app::App,
    pki::{Leaf, Pki},
};

pub(crate) const NAME: &str = "server.ssa.test";

/// Short-cuts of the scripts.
pub(crate) const SERVE: &str = r#"
CHAIN, KEY, AUTH, ALPN = 88, 89, 94, 90
def listener(chain, key, host="127.0.0.1", port=0, family=None, before=None, backlog=128):
    sock = socket.socket(family or (socket.AF_INET6 if ":" in host else socket.AF_INET))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(IPPROTO_TLS, CHAIN, text(chain)); sock.setsockopt(IPPROTO_TLS, KEY, text(key))
    if before: before(sock)
    sock.bind((host, port)); sock.listen(backlog)
    return sock
def got(sock, option, size=256):
    try: return sock.getsockopt(IPPROTO_TLS, option, size)
    except OSError as error: return name(error.errno)
def said(sock, option):
    value = got(sock, option)
    return value if isinstance(value, str) else value.rstrip(b"\0").decode()
def about(conn):
    return {"sni": said(conn, 85), "alpn": said(conn, 90), "cipher": said(conn, 98), "version": number(conn, VERSION),
            "resumed": number(conn, RESUMED), "identity": said(conn, 93), "count": number(conn, 131), "state": state(conn),
            "fingerprint": len(got(conn, 150, 32)), "chain": (lambda chain: chain if isinstance(chain, str) else chain.decode())(got(conn, 95, 1024))[:10], "error": error(conn)}
def echo(conn):
    try:
        while data := conn.recv(65536): conn.sendall(data)
    except OSError: pass
    conn.close()
"#;

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
    pub(crate) fn start(&self, script: &str, more: &[&str]) -> App {
        let arguments: Vec<&str> =
            [self.chain.as_str(), self.key.as_str()].into_iter().chain(more.iter().copied()).collect();
        App::start(&self.agent, &format!("{SERVE}{script}"), &arguments)
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

pub(crate) fn run(mut command: Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().expect("it is installed");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
