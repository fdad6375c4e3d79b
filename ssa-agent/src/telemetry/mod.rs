pub(crate) mod metrics;
pub(crate) mod monitor;
