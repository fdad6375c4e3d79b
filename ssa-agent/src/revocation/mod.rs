pub(crate) mod answer;
pub(crate) mod cache;
pub(crate) mod check;
pub(crate) mod checks;
pub(crate) mod crl;
pub(crate) mod error;
pub(crate) mod fetch;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
pub(crate) mod handshake;
pub(crate) mod ocsp;
pub(crate) mod revocation;
pub(crate) mod servers;
pub(crate) mod stapling;
pub(crate) mod subject;
