//! Transfers in which every byte is known: what is lost, doubled or made up is found, and so is an end that nobody sent.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{Arc, Mutex},
    time::Duration,
};

use openssl::ssl::{ErrorCode, SslContext, SslStream};
use serde_json::Value;

use crate::{
    agent::Agent,
    app::App,
    pki::Pki,
    server::{self, Server},
};

/// What the stream repeats after: a prime, so that no usual length of a buffer hides a hole.
pub const PERIOD: usize = 65521;
/// What a sniffer looks for; several times in each period.
pub const CANARY: &[u8] = b"canary-in-plain-sight";

/// A peer that sends back what it gets, and checks it.
pub struct Keyed {
    pub server: Server,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Keyed {
    pub fn start(context: SslContext) -> Self {
        let wrong = Arc::<Mutex<Vec<String>>>::default();
        let found = Arc::clone(&wrong);
        let server = Server::tls("127.0.0.1", context, move |stream| {
            if let Err(what) = echo(stream) {
                found.lock().expect("no panic holds it").push(what);
            }
        });
        Self { server, wrong }
    }

    /// What was wrong with what arrived.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().expect("no panic holds it").clone()
    }
}

/// The first eight bytes say how long the stream is, the next [`PERIOD`] what it repeats.
fn echo(mut stream: SslStream<TcpStream>) -> Result<(), String> {
    let mut head = [0; 8];
    if stream.read_exact(&mut head).is_err() {
        return Ok(());
    }
    let total = u64::from_le_bytes(head) as usize;
    let mut pad = vec![0; PERIOD];
    let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        match stream.ssl_read(&mut buffer) {
            Ok(read) => {
                for byte in &buffer[..read] {
                    let at = got % PERIOD;
                    if got < PERIOD {
                        pad[at] = *byte;
                    } else if pad[at] != *byte {
                        return Err(format!("byte {got} is another"));
                    }
                    got += 1;
                }
                if stream.write_all(&buffer[..read]).is_err() {
                    server::reset(stream.get_ref());
                    return Ok(());
                }
            }
            Err(end) if end.code() == ErrorCode::ZERO_RETURN && got == total => {
                let _gone = stream.shutdown();
                return Ok(());
            }
            Err(end) if end.code() == ErrorCode::ZERO_RETURN => {
                return Err(format!("an end after {got} of {total} bytes that nobody has sent"));
            }
            // Reset, or cut on the way.
            Err(_reset) => return Ok(()),
        }
    }
}

/// Programs that transfer, for [`Transfers`].
const SCRIPT: &str = r#"
import random, select
name_, ca, canary = args
PERIOD = 65521
pad = bytearray(random.Random(name_).randbytes(PERIOD))
for at in range(100, PERIOD - 100, 4000): pad[at:at + len(canary)] = canary.encode()
pad = bytes(pad) * 2
def transfer(port, total, pause):
    try: sock = tls(name_, ca)
    except OSError as failed: return {"end": name(failed.errno), "connected": False}
    come = attempt(sock.connect, ("127.0.0.1", port))
    if come != "ok": return {"end": come, "connected": False, "error": error(sock)}
    said = {"connected": True, "got": 0}
    try:
        sock.sendall(struct.pack("<Q", total))
        print(json.dumps("connected"), flush=True)
        sock.setblocking(False)
        sent = got = 0
        while True:
            readable, writable, _ = select.select([sock], [sock] if sent < total else [], [], 60)
            if not readable and not writable: said["end"] = "stuck"; break
            if readable:
                part = sock.recv(PERIOD)
                if not part:
                    said["end"] = "complete" if got == total else "false end of file"
                    break
                at = got % PERIOD
                if part != pad[at:at + len(part)]: said["end"] = "wrong bytes"; break
                got += len(part); said["got"] = got
            if writable:
                at = sent % PERIOD
                sent += sock.send(pad[at:at + min(PERIOD, total - sent)])
                if sent == total: sock.shutdown(socket.SHUT_WR)
                if pause: time.sleep(pause)
    except OSError as failed: said["end"] = name(failed.errno)
    said["error"] = error(sock)
    sock.close()
    return said
while True:
    port, total, pause = json.loads(sys.stdin.readline())
    out(transfer(port, total, pause))
"#;

/// A program that transfers when it is told to.
pub struct Transfers(App);

impl Transfers {
    pub fn start(agent: &Agent, pki: &Pki, name: &str) -> Self {
        let canary = String::from_utf8_lossy(CANARY);
        Self(App::start(agent, SCRIPT, &[name, &pki.ca(), &canary]))
    }

    /// Begins: `total` bytes each way, with a pause in seconds after each piece.
    pub fn begin(&mut self, port: u16, total: usize, pause: f64) {
        self.0.say(&format!("[{port}, {total}, {pause}]"));
    }

    /// "connected", or how it ended: `end`, `connected`, `got` bytes, `error`.
    pub fn said(&mut self) -> Value {
        self.0.said()
    }

    /// As [`Self::said`], if it says something within `limit`.
    pub fn said_within(&mut self, limit: Duration) -> Option<Value> {
        self.0.try_said(limit)
    }

    /// A whole transfer.
    pub fn run(&mut self, port: u16, total: usize) -> Value {
        self.begin(port, total, 0.0);
        loop {
            let said = self.said();
            if said != "connected" {
                return said;
            }
        }
    }
}
