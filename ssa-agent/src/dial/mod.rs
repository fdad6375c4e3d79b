pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod resolve;
pub(crate) mod socket;
pub(crate) mod socket_options;
