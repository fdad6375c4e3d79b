pub(crate) mod connection;
pub(crate) mod listeners;
