//! How a peer's chain is checked: by which sources, and under which policy.

use crate::policy;

/// Sources that may answer: options 103 to 106, as far as the policy allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Sources {
    /// What the peer has stapled.
    pub(crate) stapled: bool,
    /// OCSP responders.
    pub(crate) ocsp: bool,
    /// CRLs.
    pub(crate) crl: bool,
    /// Answers that are cached.
    pub(crate) cached: bool,
}

/// How the peers of a context are checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checks {
    pub(crate) sources: Sources,
    /// The policy in force.
    pub(crate) policy: policy::Revocation,
}
