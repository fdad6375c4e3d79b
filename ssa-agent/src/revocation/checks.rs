//! Revocation checks of a context: sources and policy.

use crate::policy;

/// Sources that may answer: options 103 to 106, as far as the policy allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Sources {
    /// Whether responses count that the peer has stapled.
    pub(crate) stapled: bool,
    /// Whether OCSP responders are asked.
    pub(crate) ocsp: bool,
    /// Whether CRLs are fetched.
    pub(crate) crl: bool,
    /// Whether cached answers count.
    pub(crate) cached: bool,
}

/// Revocation checks of a context's peers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checks {
    /// Sources that may answer.
    pub(crate) sources: Sources,
    /// Section `[revocation]` of the policy in force.
    pub(crate) policy: policy::Revocation,
}
