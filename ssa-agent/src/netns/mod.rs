//! Parts of the agent inside the network namespaces of applications: sockets, listeners, the steering program, a
//! thread.

mod client_listener;
mod error;
mod legs;
mod namespace;
mod namespaces;
mod raw;
mod thread;

pub(crate) use self::{
    client_listener::{Client, ClientListener},
    error::Error,
    legs::AnnouncedLeg,
    namespace::{Namespace, Steered},
    namespaces::Namespaces,
    raw::EndHold,
    thread::raw_sockets_of,
};
