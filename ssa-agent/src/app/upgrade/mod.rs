//! Upgrade: one agent takes the place of another. [`protocol`] says what the two say to each other.

pub(crate) mod predecessor;
pub(crate) mod protocol;
pub(crate) mod successor;
