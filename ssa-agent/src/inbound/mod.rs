pub(crate) mod accepted;
pub(crate) mod connection;
pub(crate) mod inbound;
pub(crate) mod leg;
pub(crate) mod listener;
pub(crate) mod listeners;
pub(crate) mod listening;
pub(crate) mod steering;
