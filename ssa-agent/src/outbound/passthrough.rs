//! Rules with `own_tls = "pass"`: a program that begins with a ClientHello is left to its own TLS, any other is given TLS.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    connection::error::Error,
    options::store::Settings,
    relay::{
        app_stream::{HELLO_BYTES, may_be_hello},
        peer::Reached,
    },
    revocation::revocation::{self, Inquiry},
    tls::{client as tls, server_name::ServerName},
};

/// What a handshake needs.
pub(crate) struct Later {
    pub(crate) settings: Settings,
    pub(crate) name: ServerName,
    pub(crate) to: SocketAddr,
    pub(crate) limit: Duration,
}

/// How long a program that may speak TLS itself has to begin. Then the peer speaks first, and the agent begins.
const FIRST_BYTES_LIMIT: Duration = Duration::from_secs(1);

/// Leaves TLS to a program that begins it; or else shakes hands.
pub(crate) async fn decide(
    reached: Reached,
    later: Option<Later>,
    inquiry: Option<&Inquiry>,
    app: &TcpStream,
) -> Result<Reached, Error> {
    let (later, stream) = match (later, reached) {
        (Some(later), Reached::Own(stream)) => (later, stream),
        (_, reached) => return Ok(reached),
    };
    if timeout(FIRST_BYTES_LIMIT, says_hello(app)).await.unwrap_or(false) {
        return Ok(Reached::Own(stream));
    }
    let until = revocation::deadline(later.limit);
    match timeout(later.limit, tls::connect(&later.settings, inquiry, stream, &later.name, until)).await {
        Ok(shaken) => Ok(Reached::Tls(Box::new(shaken?))),
        Err(_elapsed) => Err(Error::HandshakeTimeout { to: later.to, limit: later.limit }),
    }
}

/// Whether a program's first bytes are a ClientHello's.
async fn says_hello(app: &TcpStream) -> bool {
    let mut first = [0; HELLO_BYTES];
    loop {
        match app.peek(&mut first).await {
            Ok(HELLO_BYTES) => return may_be_hello(&first),
            Ok(read @ 1..) if may_be_hello(&first[..read]) => sleep(Duration::from_millis(1)).await,
            Ok(_) | Err(_) => return false,
        }
    }
}
