//! Relay of bytes both ways between an application and its peer.

mod app_stream;
mod peer;
mod pipe;
mod relay;

pub(crate) use self::{
    app_stream::AppStream,
    peer::PeerConnection,
    relay::{Copied, Error},
};
