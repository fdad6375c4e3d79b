pub(crate) mod all;
pub(crate) mod answers;
pub(crate) mod listeners;
pub(crate) mod options;
pub(crate) mod policy;
pub(crate) mod rules;
pub(crate) mod sockets;
pub(crate) mod table;
