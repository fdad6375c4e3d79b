pub(crate) mod error;
pub(crate) mod settings;
pub(crate) mod store;
pub(crate) mod transfer;
pub(crate) mod upload;
