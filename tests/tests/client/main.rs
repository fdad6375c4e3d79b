//! Applications that connect: options, name resolution, handshake, errors, and bytes both ways.

mod ciphers;
mod connect;
mod contexts;
mod credentials;
mod errno;
mod model;
mod option_table;
mod options;
mod peer_leg;
mod protocol;
mod raw;
mod relay;
mod resolve;
