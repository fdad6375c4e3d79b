//! Why what an application has set can't be used for a connection.

use crate::tls;

/// Settings that no connection can be made with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An agent before this one knew them, and could not hand them over.
    #[error("{0} were lost when the TLS agent was restarted")]
    Lost(&'static str),
    /// OpenSSL refuses them.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// Certificates or keys that the application has named; the text says which option, and why.
    #[error("{0}")]
    Unusable(String),
    /// The policy in force does not allow them, or no longer; the text says which option.
    #[error("weaker than the administrator's policy allows: {0}")]
    Weaker(String),
}
