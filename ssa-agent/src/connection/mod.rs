pub(crate) mod chains;
pub(crate) mod error;
pub(crate) mod table;
