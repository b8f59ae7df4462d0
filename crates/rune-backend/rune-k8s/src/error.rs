//! How the cluster fails.

use kube::Error;
use rune_backend::BackendError;

/// The cluster cannot be used, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// There is no configuration of a client.
    #[error(
        "no Kubernetes cluster is configured: {0}; name a kubeconfig, or run in a pod with a service account"
    )]
    NoCluster(String),
    /// The API server refused.
    #[error("cannot {action}: {reason}")]
    Refused {
        /// What was asked for.
        action: String,
        /// What the server said.
        reason: String,
    },
    /// The API server does not answer, or not now.
    #[error("cannot {action}: the Kubernetes API does not answer: {reason}")]
    Away {
        /// What was asked for.
        action: String,
        /// How it failed.
        reason: String,
    },
}

impl KubernetesError {
    pub(crate) fn new(action: &str, error: &Error) -> Self {
        let action = action.to_owned();
        match error {
            Error::Api(status) if status.code < 500 && status.code != 429 => Self::Refused {
                action,
                reason: status.message.clone(),
            },
            Error::Api(status) => Self::Away {
                action,
                reason: status.message.clone(),
            },
            error => Self::Away {
                action,
                reason: chain(error),
            },
        }
    }
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = error.source();
    }
    text
}

/// The code of an answer that refuses.
pub(crate) fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// What an error of making something of a replica means to the one who deployed it.
pub(crate) fn of_start(action: &str, error: &Error) -> BackendError {
    let message = KubernetesError::new(action, error).to_string();
    match code(error) {
        // What is not valid stays so until the deployment changes.
        Some(400 | 422) => BackendError::Invalid(message),
        _ => BackendError::Unavailable(message),
    }
}

impl From<KubernetesError> for BackendError {
    fn from(error: KubernetesError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
