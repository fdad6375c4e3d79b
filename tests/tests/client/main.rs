//! Applications that connect: options, name resolution, handshake, errors, and bytes both ways.

mod ciphers;
mod connect;
mod credentials;
mod errno;
mod model;
mod options;
mod peer_leg;
mod protocol;
mod relay;
mod resolve;
