pub(crate) mod error_chain;
pub(crate) mod health;
pub(crate) mod log_once;
pub(crate) mod metrics;
pub(crate) mod monitor;
pub(crate) mod service_manager;
