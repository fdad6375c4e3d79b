pub(crate) mod attempts;
pub(crate) mod connection;
pub(crate) mod hold;
pub(crate) mod outbound;
pub(crate) mod passthrough;
pub(crate) mod secure;
pub(crate) mod starttls;
pub(crate) mod target;
