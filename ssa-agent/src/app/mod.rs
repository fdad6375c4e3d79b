pub(crate) mod admin;
pub(crate) mod events;
pub(crate) mod reconcile;
pub(crate) mod run;
pub(crate) mod shutdown;
pub(crate) mod tasks;
pub(crate) mod upgrade;
pub(crate) mod wiring;
