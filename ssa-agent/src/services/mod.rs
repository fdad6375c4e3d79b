pub(crate) mod attached;
pub(crate) mod pods;
pub(crate) mod services;
pub(crate) mod uncaptured;
