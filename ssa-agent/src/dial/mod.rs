pub(crate) mod connect;
pub(crate) mod resolve;
pub(crate) mod socket;
