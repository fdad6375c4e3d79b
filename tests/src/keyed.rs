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

/// Bytes after which the stream repeats: a prime, so that no usual length of a buffer hides a hole.
pub const PERIOD: usize = 65521;
/// The text that a sniffer looks for; several times in each period.
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

    /// Faults in what arrived: other bytes, an end that nobody sent.
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

/// Applications that transfer, for [`Transfers`].
const SCRIPT: &str = "transfers.py";

/// An application that transfers when it is told to.
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

    /// Line that the application says within `limit`, or none.
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
