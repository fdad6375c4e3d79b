//! Rules with `app_tls = "passthrough"`: an application that begins with a ClientHello is left to its own TLS, any
//! other is given TLS.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    connection::Error,
    relay::PeerConnection,
    revocation::{self, Check, deadline},
    tls::{ClientConfig, HELLO_BYTES, ServerName, may_be_hello},
};

/// Handshake that waits for the first bytes of the application.
pub(super) struct DeferredHandshake {
    /// Connection to the peer, on which nothing was sent.
    pub(super) stream: TcpStream,
    /// Configuration of the handshake.
    pub(super) tls: ClientConfig,
    /// Server name that the peer must prove.
    pub(super) name: ServerName,
    /// Address of the peer, for messages.
    pub(super) to: SocketAddr,
    /// Time that the handshake may take.
    pub(super) limit: Duration,
}

/// Time that an application that may speak TLS itself has to begin. After it the peer is taken to speak first, and the
/// agent begins.
const FIRST_BYTES_LIMIT: Duration = Duration::from_secs(1);

impl DeferredHandshake {
    /// Leaves TLS to an application that begins it; or else shakes hands.
    ///
    /// Errors: [`Error::HandshakeTimeout`], [`Error::Tls`], [`Error::Revocation`]. Cancellation closes the connection.
    pub(super) async fn detect(self, check: Option<&Check>, app: &TcpStream) -> Result<PeerConnection, Error> {
        if timeout(FIRST_BYTES_LIMIT, sends_hello(app)).await.unwrap_or(false) {
            return Ok(PeerConnection::Passthrough(self.stream));
        }
        let until = deadline(self.limit);
        match timeout(self.limit, revocation::connect(&self.tls, check, self.stream, &self.name, until)).await {
            Ok(secured) => Ok(PeerConnection::Tls(Box::new(secured?))),
            Err(_elapsed) => Err(Error::HandshakeTimeout { to: self.to, limit: self.limit }),
        }
    }
}

/// Whether an application's first bytes are a ClientHello's.
async fn sends_hello(app: &TcpStream) -> bool {
    let mut first = [0; HELLO_BYTES];
    loop {
        match app.peek(&mut first).await {
            Ok(HELLO_BYTES) => return may_be_hello(&first),
            Ok(read @ 1..) if may_be_hello(&first[..read]) => sleep(Duration::from_millis(1)).await,
            Ok(_) | Err(_) => return false,
        }
    }
}
