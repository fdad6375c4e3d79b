pub(crate) mod file;
pub(crate) mod policy;
pub(crate) mod profile;
pub(crate) mod row;
pub(crate) mod rule;
pub(crate) mod selector;
pub(crate) mod value;
