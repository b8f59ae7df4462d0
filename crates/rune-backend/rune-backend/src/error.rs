//! How a backend fails.

/// A backend operation that did not succeed. The text is shown to operators and holds
/// no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The replica cannot run as specified; trying again does not help until the
    /// deployment changes.
    #[error("{0}")]
    Invalid(String),
    /// The replica could not be started or reached now.
    #[error("{0}")]
    Unavailable(String),
}
