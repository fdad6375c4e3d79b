pub(crate) mod decision;
pub(crate) mod error;
pub(crate) mod learned_names;
pub(crate) mod limits;
pub(crate) mod policies;
pub(crate) mod rules;
