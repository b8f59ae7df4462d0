//! The client: from inside a cluster, or by a kubeconfig.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::{KubernetesConfig, KubernetesError};

/// A client of the cluster that is configured.
pub(crate) async fn client(config: &KubernetesConfig) -> Result<Client, KubernetesError> {
    let none = |error: &dyn std::error::Error| KubernetesError::NoCluster(error.to_string());
    let found = match &config.settings.kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|error| none(&error))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .map_err(|error| none(&error))?
        }
        None => Config::infer().await.map_err(|error| none(&error))?,
    };
    Client::try_from(found).map_err(|error| none(&error))
}

/// The label with the name of what a pod is a part of.
pub(crate) const APP: &str = "app.kubernetes.io/name";

/// The pod that this process is in.
pub(crate) struct OwnPod {
    /// What owns it: a stateful set, say, which outlives its pods.
    pub(crate) owner: Option<OwnerReference>,
    /// Its label [`APP`].
    pub(crate) app: Option<String>,
}

/// Looks for the pod that this process is in.
pub(crate) async fn own_pod(pods: &Api<Pod>, name: &str) -> Result<OwnPod, KubernetesError> {
    let found = pods.get(name).await;
    let found = found.map_err(|error| KubernetesError::new("read the daemon's own pod", &error))?;
    let labels = found.metadata.labels.unwrap_or_default();
    let owners = found.metadata.owner_references.unwrap_or_default();
    let owner = owners
        .into_iter()
        .find(|owner| owner.controller == Some(true));
    let owner = owner.map(|owner| OwnerReference {
        // It is not in the way of replicas that end by themselves.
        block_owner_deletion: None,
        controller: None,
        ..owner
    });
    let app = labels.get(APP).cloned();
    Ok(OwnPod { owner, app })
}
