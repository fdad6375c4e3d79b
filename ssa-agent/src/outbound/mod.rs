pub(crate) mod attempts;
pub(crate) mod connection;
pub(crate) mod passthrough;
pub(crate) mod starttls;
