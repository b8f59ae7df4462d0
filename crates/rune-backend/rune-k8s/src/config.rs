//! What an operator says about replicas in pods.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

/// Starts a task that runs until the process ends.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// Where and how pods of replicas run.
#[derive(Debug, Clone)]
pub struct KubernetesConfig {
    /// A kubeconfig; absent: the service account of the pod that this process is in, else the usual kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the pods; it must exist.
    pub namespace: String,
    /// Whose the pods are, where several daemons use one namespace: a valid value of a label.
    pub daemon: String,
    /// The image of agents that name none.
    pub image: String,
    /// The pod that this process is in; what owns that one owns the replicas, too.
    pub own_pod: Option<String>,
    /// Nodes on which pods may be.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods tolerate.
    pub tolerations: Vec<Toleration>,
    /// Annotations of pods.
    pub annotations: BTreeMap<String, String>,
    /// How long a pod may take until it is ready, with the time to pull its image.
    pub start_timeout: Duration,
}

/// A taint that is tolerated, as in a pod's specification.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key; absent: every one.
    #[serde(default)]
    pub key: Option<String>,
    /// `Equal` or `Exists`.
    #[serde(default)]
    pub operator: Option<String>,
    /// The taint's value.
    #[serde(default)]
    pub value: Option<String>,
    /// The taint's effect; absent: every one.
    #[serde(default)]
    pub effect: Option<String>,
    /// How long it is tolerated.
    #[serde(default)]
    pub toleration_seconds: Option<i64>,
}
