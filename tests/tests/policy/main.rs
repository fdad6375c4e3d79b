//! Policy of the administrator: what it refuses, for whom, how it is read and changed.

mod file;
mod fixture;
mod profiles;
mod reload;
mod strength;
