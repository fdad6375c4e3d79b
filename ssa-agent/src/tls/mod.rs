//! OpenSSL: contexts, handshakes whose only way out is a verified peer, sessions, certificates. Knows no policy.

mod certificate;
mod cipher;
mod client;
mod config;
mod context;
mod credentials;
mod error;
mod handshake;
mod parameters;
mod peer;
mod record;
mod secured;
mod server;
mod server_name;
mod session;
mod staples;

pub(crate) use self::{
    certificate::{date_text, distinguished_name},
    cipher::{Suite, cipher_list, cipher_set},
    client::{ChainChecks, connect},
    config::ClientConfig,
    context::context,
    credentials::{Credential, Credentials, certificates},
    error::{Error, Failed},
    parameters::{Parameters, TrustAnchors},
    peer::PeerStream,
    record::{HELLO_BYTES, Records, content_type, is_client_hello, may_be_hello},
    secured::Secured,
    server::{ServerConfig, ServerParameters, Staple, accept},
    server_name::{Invalid, ServerName},
    session::Sessions,
    staples::Staples,
};

#[cfg(any(fuzzing, test))]
pub(crate) use self::{record::fuzz_records, staples::fuzz_staples};
