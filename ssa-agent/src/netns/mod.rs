pub(crate) mod client_listener;
pub(crate) mod error;
pub(crate) mod legs;
pub(crate) mod namespace;
pub(crate) mod namespaces;
pub(crate) mod raw;
pub(crate) mod thread;
