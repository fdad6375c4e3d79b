pub(crate) mod predecessor;
pub(crate) mod protocol;
pub(crate) mod successor;
