//! The seam itself.

use std::time::Duration;

use async_trait::async_trait;
use rune_store_runtime::ReplicaId;

use crate::{BackendError, ReplicaSpec};

/// How a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaHealth {
    /// It takes requests.
    Ready,
    /// It is on its way.
    Starting,
    /// It does not do its work; why, for a person.
    Unhealthy(String),
    /// The backend does not know it, or no longer.
    Gone,
}

/// Runs replicas. Every method may be called again after an error or a crash: starting
/// a replica that runs, draining one that drains and stopping one that is gone succeed.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The name that replica rows carry, such as `wasm`.
    fn name(&self) -> &'static str;

    /// Whether a replica has the workspaces that are on the daemon's machine.
    fn has_workspaces(&self) -> bool {
        true
    }

    /// Starts a replica and returns once it takes requests: its base URL, or `None`
    /// where it is reached in process. Dropping the future leaves a replica that
    /// [`Backend::stop`] removes.
    ///
    /// # Errors
    /// A [`BackendError`] that tells a person why the replica cannot run.
    async fn start(&self, spec: &ReplicaSpec) -> Result<Option<String>, BackendError>;

    /// How a replica is.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] where the backend itself does not answer; nothing is
    /// known about the replica then.
    async fn health(&self, id: ReplicaId) -> Result<ReplicaHealth, BackendError>;

    /// Tells a replica to take nothing new and waits until it is idle, `grace` at the
    /// longest. Answers whether it is.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    async fn drain(&self, id: ReplicaId, grace: Duration) -> Result<bool, BackendError>;

    /// Ends a replica and removes what belongs to it.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    async fn stop(&self, id: ReplicaId) -> Result<(), BackendError>;

    /// Takes over a replica that an earlier process has started and that is ready, where it
    /// is what `spec` says; `endpoint` is what [`Backend::start`] answered then. Answers
    /// whether it is, and takes requests from now on.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    async fn adopt(&self, _spec: &ReplicaSpec, _endpoint: &str) -> Result<bool, BackendError> {
        Ok(false)
    }

    /// The replicas that are there, whichever process has started them.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    async fn list(&self) -> Result<Vec<ReplicaId>, BackendError> {
        Ok(Vec::new())
    }

    /// The last lines that a replica has logged, at the most so many; nothing where it has
    /// no log of its own.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    async fn logs(&self, _id: ReplicaId, _lines: usize) -> Result<Option<String>, BackendError> {
        Ok(None)
    }
}
