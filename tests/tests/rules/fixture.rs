//! Rules, peers and short-cuts of these tests.

use std::process::{Command, Output, Stdio};

use ssa_tests::{
    agent::Agent,
    app::command,
    pki::{Leaf, Pki},
    server::{self, Server},
    sniffer::holds,
};

pub(crate) const NAME: &str = "peer.ssa.test";

pub(crate) fn echo() -> (Pki, Server) {
    let pki = Pki::new();
    let context = server::context(&pki.leaf(Leaf::of(&[NAME])));
    (pki, Server::tls("127.0.0.1", context, server::echo))
}

/// What goes to a port of 127.0.0.1 is TLS to [`NAME`].
pub(crate) fn out(port: u16, pki: &Pki, more: &str) -> String {
    format!(
        "[[rule]]\nname = \"out\"\ndirection = \"out\"\naddress = \"127.0.0.1\"\nport = {port}\nhostname = \"{NAME}\"\n\
         trust = {{ system = false, files = [\"{}\"] }}\n{more}\n",
        pki.ca()
    )
}

pub(crate) const TALK: &str = r#"
port, = args
def talk():
    sock = socket.socket()
    sock.settimeout(20)
    try:
        sock.connect(("127.0.0.1", int(port)))
        sock.sendall(b"canary-in-plain-sight")
        return [sock.recv(100).decode(), sock.getpeername()[1] == int(port)]
    except OSError as error:
        return errno.errorcode[error.errno]
"#;

/// A program in the service, that is to succeed.
pub(crate) fn run(agent: &Agent, program: &str, arguments: &[&str]) -> String {
    let output = command(agent, program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Whether a packet to or from a port has the canary in it.
pub(crate) fn leaks(packet: &[u8], port: u16) -> bool {
    ssa_tests::sniffer::ports(packet).is_some_and(|(from, to)| from == port || to == port) && holds(packet, b"canary")
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// What listens on a port of 127.0.0.1 is served as TLS.
pub(crate) fn served(port: u16, pki: &Pki) -> String {
    let (chain, key) = pki.write("served", &pki.leaf(Leaf::of(&[NAME])));
    format!(
        "[[rule]]\nname = \"web\"\ndirection = \"in\"\nport = {port}\n\
         credentials = {{ chain = \"{chain}\", key = \"{key}\" }}\n"
    )
}

pub(crate) const SERVE: &str = r#"
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(self.client_address[:2]).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
host, port = args[0], int(args[1])
server = http.server.ThreadingHTTPServer((host, port), Handler)
out("ready")
server.serve_forever()
"#;

pub(crate) fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "--max-time", "10"]).args(arguments).stdin(Stdio::null()).output().unwrap()
}
