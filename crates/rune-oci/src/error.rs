//! What goes wrong with artefacts and registries.

use crate::Digest;

/// Why an artefact cannot be had, or not be handed on.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// Nobody answers.
    #[error("the registry {registry} does not answer: {reason}")]
    Unreachable {
        /// Its host.
        registry: String,
        /// What was found instead.
        reason: String,
    },
    /// The registry wants to know who asks, or does not like who does.
    #[error("the registry {registry} refuses access to {repository}: {said}")]
    Denied {
        /// Its host.
        registry: String,
        /// The repository.
        repository: String,
        /// Its answer.
        said: String,
        /// Whether credentials were there.
        authenticated: bool,
    },
    /// There is no such thing.
    #[error("the registry {registry} has no {what} in {repository}")]
    NotFound {
        /// Its host.
        registry: String,
        /// The repository.
        repository: String,
        /// What was looked for.
        what: String,
    },
    /// The registry answered something else than it should have.
    #[error("the registry {registry} cannot {action} in {repository}: {said}")]
    Refused {
        /// Its host.
        registry: String,
        /// The repository.
        repository: String,
        /// What it was asked for.
        action: &'static str,
        /// Its answer.
        said: String,
        /// Whether it may be otherwise a little later.
        transient: bool,
    },
    /// The content is not what its name says.
    #[error(
        "the content of {expected} ({media_type}) is {actual}: it was changed on its way or in its place"
    )]
    Digest {
        /// What it should be.
        media_type: String,
        /// The digest that names it.
        expected: Digest,
        /// The digest that it has.
        actual: Digest,
    },
    /// More than is read.
    #[error("the {what} is larger than {limit} bytes")]
    TooLarge {
        /// What.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// An artefact of another kind.
    #[error("it is a `{found}` and not the package of an agent")]
    NotAnAgent {
        /// What it says that it is.
        found: String,
    },
    /// It is not what it should be.
    #[error("the {what} cannot be read: {reason}")]
    Malformed {
        /// What.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The credentials cannot be had.
    #[error("the credentials of {registry} cannot be had from {place}: {reason}")]
    Credentials {
        /// For whom.
        registry: String,
        /// From whom.
        place: String,
        /// Why.
        reason: String,
    },
    /// The file system failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl OciError {
    pub(crate) fn malformed(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            what,
            reason: reason.into(),
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Denied {
                registry,
                authenticated: false,
                ..
            } => Some(format!(
                "`docker login {registry}` keeps credentials where Rune finds them"
            )),
            Self::Denied { registry, .. } => Some(format!(
                "these credentials do not do: `docker login {registry}` with others, or ask its operator for access"
            )),
            Self::Unreachable { .. } => Some(
                "check the name and the network; only registries on this machine are asked without TLS".to_owned(),
            ),
            Self::NotFound { .. } => Some("check the repository and the tag".to_owned()),
            Self::Digest { .. } => Some(
                "do not use it; push it again from where it was built, and ask the registry's operator what happened"
                    .to_owned(),
            ),
            Self::Refused {
                transient: true, ..
            } => Some("try again a little later".to_owned()),
            Self::NotAnAgent { .. } => Some("`rune push` puts packages into a registry".to_owned()),
            Self::Credentials { .. } => Some(
                "the file is Docker's: `docker login` writes it, DOCKER_CONFIG names another directory".to_owned(),
            ),
            Self::Refused { .. } | Self::TooLarge { .. } | Self::Malformed { .. } | Self::Io { .. } => {
                None
            }
        }
    }
}
