pub(crate) mod access_log;
pub(crate) mod answers;
pub(crate) mod chains;
pub(crate) mod error;
pub(crate) mod ids;
pub(crate) mod info;
pub(crate) mod table;
