//! Whether a peer's certificates were revoked.
//!
//! Every certificate of the chain that was verified needs an answer, but the root: from the cache, a stapled response,
//! an OCSP responder, or a CRL, as the application's options and the policy allow. Stapled and cached ones come first;
//! then responders and lists are asked side by side, and the first that has something to say counts. None: no
//! connection.
//!
//! - [`subject`]: a certificate with its issuer, and what it says of where to ask;
//! - [`answer`]: what was said, and for how long it counts;
//! - [`ocsp`], [`crl`]: what a response or a list is worth, by OpenSSL's own verification;
//! - [`check`]: one connection's question; [`servers`]: who is asked, and left alone for a while where that fails;
//! - [`mod@fetch`]: HTTP, within limits; [`cache`]: memory and disk.

mod answer;
mod cache;
mod check;
mod checks;
mod crl;
mod error;
mod fetch;
#[cfg(any(fuzzing, test))]
mod fuzz;
mod handshake;
mod ocsp;
mod revocation;
mod servers;
mod stapling;
mod subject;

pub(crate) use self::{
    check::{Check, deadline},
    checks::{Checks, Sources},
    error::Error,
    fetch::Origin,
    handshake::{accept, connect},
    revocation::Revocation,
    stapling::Stapling,
};

#[cfg(any(fuzzing, test))]
pub(crate) use self::{fuzz::fuzz as fuzz_status, subject::Subject};
