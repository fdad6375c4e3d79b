//! Connections that applications accept, from listen(2) to the end of a relay.
//!
//! - [`listening`]: a listener from listen(2) to its last close; [`steering`]: its clients' way to the agent;
//! - [`connection`]: one client as one function; [`leg`]: the agent's connection to the application's listener.

mod accepted;
mod connection;
mod inbound;
mod leg;
mod listener;
mod listeners;
mod listening;
mod parking;
mod steering;

pub(crate) use self::{
    accepted::AcceptedSockets, connection::serve, inbound::Inbound, listeners::Listeners, parking::Parking,
};
