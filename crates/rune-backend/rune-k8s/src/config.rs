//! What pods of replicas are made with.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Starts a task that runs until the process ends.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// Where and how pods of replicas run.
#[derive(Debug, Clone)]
pub struct KubernetesConfig {
    /// What the operator says.
    pub settings: rune_env::KubernetesConfig,
    /// Whose the pods are, where several daemons use one namespace: lower-case letters and digits, 63 at the most.
    pub daemon: String,
    /// The image of agents that name none.
    pub image: String,
}
