//! Running agent: builds the parts, reads the events, does what an administrator asks, hands over, and ends.

mod admin;
mod events;
mod reconcile;
mod run;
mod shutdown;
mod tasks;
pub(crate) mod upgrade;
mod wiring;

pub(crate) use self::run::{RunOptions, run};
