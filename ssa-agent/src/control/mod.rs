pub(crate) mod client;
pub(crate) mod protocol;
pub(crate) mod server;
