//! Errors of settings that can't be used for a connection.

use crate::tls;

/// Reason why no connection can be made with an application's settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Settings that an agent before this one knew, and could not hand over; the text says which.
    #[error("{0} were lost when the TLS agent was restarted")]
    Lost(&'static str),
    /// OpenSSL refuses the settings.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// Certificates or keys that the application has named can't be used; the text says which option, and why.
    #[error("{0}")]
    Unusable(String),
    /// The policy in force does not allow the settings, or no longer; the text says which option.
    #[error("weaker than the administrator's policy allows: {0}")]
    Weaker(String),
}
