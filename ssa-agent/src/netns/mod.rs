pub(crate) mod namespace;
