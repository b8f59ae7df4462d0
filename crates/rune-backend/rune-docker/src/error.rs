//! What goes wrong with containers.

use std::error::Error;
use std::io;

use rune_tools::{ToolError, ToolErrorKind};

/// Why a container cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The engine's address is of a kind that is not supported.
    #[error(
        "`{0}` is not an address of Docker Engine that Rune can use; DOCKER_HOST takes unix:///PATH or tcp://HOST:PORT"
    )]
    Host(String),
    /// Nothing answers.
    #[error(
        "Docker Engine does not answer at {host} ({reason}); start it, or say where it is with DOCKER_HOST; `rune \
         doctor` checks it"
    )]
    Absent {
        /// Its address.
        host: String,
        /// What was found instead.
        reason: String,
    },
    /// The engine is there and does not let this user in.
    #[error(
        "this user may not use Docker Engine at {host} (permission denied); add it to the group that owns the socket, \
         or say where another engine is with DOCKER_HOST; `rune doctor` checks it"
    )]
    Denied {
        /// Its address.
        host: String,
    },
    /// The image is not on the engine.
    #[error(
        "the image `{0}` is not on the engine, and Rune pulls none; get it with `docker pull {0}`"
    )]
    NoImage(String),
    /// The image is not on the engine, and its name does not say where it would be pulled from.
    #[error(
        "the image `{0}` is not on the engine, and one whose name has no registry is not pulled; make it (`rune build \
         --image`, `docker build`), or write its registry too, as in `docker.io/library/{0}`"
    )]
    LocalImage(String),
    /// The engine could not pull the image.
    #[error(
        "the image `{image}` cannot be pulled: {reason}; where `{registry}` asks who it is, `docker login {registry}` as the \
         user of the daemon, or DOCKER_CONFIG names the directory with its `config.json`"
    )]
    Pull {
        /// The image.
        image: String,
        /// Its registry.
        registry: String,
        /// What the engine says.
        reason: String,
    },
    /// The user of a replica's image has a name, which may be one of root.
    #[error(
        "the image `{image}` runs as `{user}`, which may be root under another name: a replica needs a user that is a \
         number other than 0; write `USER 65532:65532` in its Dockerfile"
    )]
    NamedUser {
        /// The image.
        image: String,
        /// Its user.
        user: String,
    },
    /// The image starts nothing by itself.
    #[error(
        "the image `{0}` has neither an entrypoint nor a command; name a program of the package with `module`"
    )]
    NoProgram(String),
    /// A capability that cannot be enforced.
    #[error(
        "capability `{0}` cannot be enforced for a container: its network is either off or whole; grant `network` for \
         every host, or leave it out"
    )]
    Network(String),
    /// A directory that is never granted.
    #[error("capability `{capability}` cannot be granted: {reason}")]
    Directory {
        /// As it is written.
        capability: String,
        /// Why.
        reason: String,
    },
    /// A limit that has no meaning or cannot be kept.
    #[error("{0}")]
    Limit(String),
    /// A variable or a secret cannot be granted.
    #[error("{0}")]
    Grant(#[from] ToolError),
    /// The engine refused.
    #[error("Docker Engine cannot {action}: {reason}")]
    Refused {
        /// What it was asked to do.
        action: &'static str,
        /// Its answer.
        reason: String,
    },
}

impl DockerError {
    /// What an answer of the engine means.
    pub(crate) fn of(host: &str, action: &'static str, error: &bollard::errors::Error) -> Self {
        use bollard::errors::Error as Answer;
        match error {
            Answer::DockerResponseServerError { message, .. } => Self::Refused {
                action,
                reason: message.trim().to_owned(),
            },
            Answer::SocketNotFoundError(_) => Self::Absent {
                host: host.to_owned(),
                reason: "there is no such socket".to_owned(),
            },
            error => match io_kind(error) {
                Some(io::ErrorKind::PermissionDenied) => Self::Denied {
                    host: host.to_owned(),
                },
                Some(kind) => Self::Absent {
                    host: host.to_owned(),
                    reason: kind.to_string(),
                },
                None => Self::Refused {
                    action,
                    reason: error.to_string(),
                },
            },
        }
    }

    /// Whether it can be otherwise without a change of the agent.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Absent { .. }
                | Self::Denied { .. }
                | Self::NoImage(_)
                | Self::LocalImage(_)
                | Self::Pull { .. }
                | Self::Refused { .. }
        )
    }
}

impl From<DockerError> for ToolError {
    fn from(error: DockerError) -> Self {
        let kind = match &error {
            DockerError::Absent { .. }
            | DockerError::Denied { .. }
            | DockerError::NoImage(_)
            | DockerError::LocalImage(_)
            | DockerError::Pull { .. } => ToolErrorKind::Unavailable,
            DockerError::Network(_) | DockerError::Directory { .. } => ToolErrorKind::Denied,
            DockerError::Grant(error) => error.kind,
            DockerError::Host(_)
            | DockerError::NamedUser { .. }
            | DockerError::NoProgram(_)
            | DockerError::Limit(_)
            | DockerError::Refused { .. } => ToolErrorKind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

/// The kind of the I/O error at the bottom of an error, where there is one.
fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = match error.downcast_ref::<bollard::errors::Error>() {
            // It does not name its source.
            Some(bollard::errors::Error::HyperLegacyError { err }) => Some(err),
            _ => error.source(),
        };
    }
    None
}
