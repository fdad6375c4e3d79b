//! Telemetry for people and machines: metrics, health, systemd, the texts of errors.

mod error_chain;
mod health;
mod log_once;
mod metrics;
mod monitor;
mod service_manager;

pub(crate) use self::{
    error_chain::error_chain,
    health::Health,
    log_once::LogOnce,
    metrics::{Labels, Metrics, Snapshot},
    monitor::serve,
    service_manager::{follow, notify},
};
