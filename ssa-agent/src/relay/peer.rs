//! Other side of a relay: a peer or a client after its handshake, or one that speaks no TLS, where a rule lets it.

use super::{
    app_stream::AppStream,
    relay::{self, Copied},
};
use crate::tls::Secured;
use openssl::x509::X509;
use std::{
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpStream;

/// Other side of a relay.
pub(crate) enum PeerConnection {
    /// TLS that the agent speaks, after its handshake.
    Tls(Box<Secured>),
    /// Plaintext, by a rule with `mode = "prefer"`.
    Plaintext(TcpStream),
    /// TLS that the application speaks itself, by a rule with `app_tls = "passthrough"`.
    Passthrough(TcpStream),
}

impl PeerConnection {
    /// TCP connection below TLS.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tls(secured) => secured.stream.get_ref().tcp(),
            Self::Plaintext(stream) | Self::Passthrough(stream) => stream,
        }
    }

    fn secured(&self) -> Option<&Secured> {
        match self {
            Self::Tls(secured) => Some(secured),
            Self::Plaintext(_) | Self::Passthrough(_) => None,
        }
    }

    /// Version of TLS as on the wire: 0x0303 or 0x0304; 0 if the agent speaks no TLS.
    pub(crate) fn version(&self) -> i64 {
        self.secured().map_or(0, Secured::version)
    }

    /// Name of the version for people: `TLS 1.2`, `TLS 1.3`, `plaintext` or `its own TLS`.
    pub(crate) fn version_name(&self) -> &'static str {
        match self {
            Self::Plaintext(_) => "plaintext",
            Self::Passthrough(_) => "its own TLS",
            Self::Tls(secured) if secured.version() == 0x0304 => "TLS 1.3",
            Self::Tls(_) => "TLS 1.2",
        }
    }

    /// Name that OpenSSL has for the cipher suite; empty if the agent speaks no TLS.
    pub(crate) fn cipher(&self) -> &'static str {
        self.secured().map_or("", Secured::cipher)
    }

    /// Resumption of an earlier session (RFC 8446, section 2.2); false for a full handshake.
    pub(crate) fn resumed(&self) -> bool {
        self.secured().is_some_and(Secured::resumed)
    }

    /// Verified chain, leaf first; empty if there is none.
    pub(crate) fn chain(&self) -> &[X509] {
        self.secured().map_or(&[], Secured::chain)
    }

    /// SHA-256 of the peer's certificate in DER; zero if there is none.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.secured().map(Secured::fingerprint).unwrap_or_default()
    }

    /// Subject of the peer's certificate (RFC 2253); empty if there is none.
    pub(crate) fn identity(&self) -> String {
        self.secured().map(Secured::identity).unwrap_or_default()
    }

    /// Application protocol that was negotiated.
    pub(crate) fn alpn(&self) -> Option<&str> {
        self.secured().and_then(Secured::alpn)
    }

    /// Server name that a client asked for.
    pub(crate) fn sni(&self) -> Option<&str> {
        self.secured().and_then(Secured::sni)
    }

    /// Relays between it and an application ([`relay::run`]), whose errors and cancellation hold.
    pub(crate) async fn relay(
        self,
        app: AppStream,
        option_updates: impl FnMut(&mut Context<'_>, &TcpStream) -> Poll<()>,
        before_reset: impl FnOnce(&relay::Error),
        copied: &Copied,
        idle: Duration,
        revoked: impl Future<Output = String>,
    ) -> Result<(), relay::Error> {
        match self {
            Self::Tls(secured) => {
                relay::run(app, secured.stream, option_updates, before_reset, copied, idle, revoked).await
            }
            Self::Plaintext(stream) | Self::Passthrough(stream) => {
                relay::run(app, AppStream::new(stream), option_updates, before_reset, copied, idle, revoked).await
            }
        }
    }
}
