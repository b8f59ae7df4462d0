//! What runs the containers of pods.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::logs::ContainerLog;

/// A directory or file of the machine in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// On this machine.
    pub source: PathBuf,
    /// In the container.
    pub target: String,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// A container to run.
#[derive(Debug, Clone)]
pub struct ContainerRequest {
    /// Its pod.
    pub pod: Arc<Value>,
    /// Its part of the pod's specification.
    pub container: Value,
    /// Its environment, with every reference looked up.
    pub env: Vec<(String, String)>,
    /// Its volumes.
    pub mounts: Vec<Mount>,
    /// A container of the pod whose network it shares; absent for the first.
    pub network_of: Option<String>,
    pub(crate) log: Arc<ContainerLog>,
}

impl ContainerRequest {
    /// Adds to what the container has said.
    pub fn say(&self, bytes: &[u8]) {
        self.log.append(bytes);
    }
}

/// Why a container does not start, as its status says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// Such as `ErrImagePull`.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

/// Runs containers.
#[async_trait]
pub trait PodRuntime: Send + Sync {
    /// Starts a container.
    ///
    /// # Errors
    /// A [`StartFailure`].
    async fn start(&self, request: &ContainerRequest) -> Result<Box<dyn Running>, StartFailure>;
}

/// A container that was started.
#[async_trait]
pub trait Running: Send + Sync {
    /// What names it, for those that share its network.
    fn id(&self) -> &str;

    /// Its address.
    fn address(&self) -> &str;

    /// Waits until it has ended; answers its exit code.
    async fn ended(&self) -> i32;

    /// Asks it to end and kills it after `grace`.
    async fn stop(&self, grace: Duration);

    /// Removes what is left of it after it has ended.
    async fn remove(&self);
}
