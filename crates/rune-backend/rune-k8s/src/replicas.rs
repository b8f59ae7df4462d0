//! The backend.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, LogParams, PostParams};
use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec};
use rune_store_runtime::ReplicaId;
use tokio::sync::OnceCell;

use crate::connect::{self, OwnPod};
use crate::error::{code, of_start};
use crate::manifest::{self, DAEMON, name_of, owned_by};
use crate::network::Policies;
use crate::state::Seen;
use crate::view::View;
use crate::{KubernetesConfig, KubernetesError, Spawn};

/// Lines of a log that are shown where a replica does not start.
const SHOWN_LOG_LINES: usize = 5;
/// Longest part of a log that is read.
const MAX_LOG_BYTES: usize = 4 << 20;

/// Runs replicas in pods.
pub struct KubernetesReplicas {
    config: KubernetesConfig,
    pods: Api<Pod>,
    secrets: Api<Secret>,
    policies: Api<NetworkPolicy>,
    /// The pod that the daemon is in, once it was looked for.
    own: OnceCell<OwnPod>,
    view: View,
    /// Made by this process and maybe not seen yet by the watch.
    starting: Mutex<HashSet<ReplicaId>>,
}

impl KubernetesReplicas {
    /// Connects to the cluster and begins to watch its pods; `spawn` runs the watch.
    ///
    /// # Errors
    /// A [`KubernetesError`] where no cluster is configured. One that is away is not an error.
    pub async fn connect(
        config: KubernetesConfig,
        spawn: &Spawn,
    ) -> Result<Arc<Self>, KubernetesError> {
        let settings = &config.settings;
        if settings.pod.is_none() && settings.daemon_from.is_empty() {
            tracing::warn!(
                "neither `kubernetes.pod` nor `kubernetes.daemon_from` says where this daemon comes from: network policies \
                 leave the port of its replicas open to everybody"
            );
        }
        let client = connect::client(&config).await?;
        let namespace = config.settings.namespace.as_str();
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let view = View::new();
        let labels = format!("{DAEMON}={}", config.daemon);
        spawn(Box::pin(view.clone().follow(pods.clone(), labels)));
        Ok(Arc::new(Self {
            secrets: Api::namespaced(client.clone(), namespace),
            policies: Api::namespaced(client, namespace),
            config,
            pods,
            own: OnceCell::new(),
            view,
            starting: Mutex::default(),
        }))
    }

    fn starting(&self) -> MutexGuard<'_, HashSet<ReplicaId>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod that the daemon is in. Looked for when it is needed first: replicas go on, and the daemon starts, while the API
    /// server is away.
    async fn own(&self) -> Result<Option<&OwnPod>, KubernetesError> {
        let Some(own) = &self.config.settings.pod else {
            return Ok(None);
        };
        let find = || connect::own_pod(&self.pods, own);
        Ok(Some(self.own.get_or_try_init(find).await?))
    }

    /// Makes the pod, its secret and the policies of its networks, where they are not there.
    async fn make(&self, spec: &ReplicaSpec) -> Result<(), BackendError> {
        let own = self.own().await?;
        // The replicas belong to what the daemon's own pod belongs to.
        let owner = own.and_then(|own| own.owner.as_ref());
        let params = PostParams::default();
        let pod = manifest::pod(spec, &self.config, owner);
        let pod = match self.pods.create(&params, &pod).await {
            Ok(pod) => pod,
            // An earlier try made it; it is the same one, for an id has one specification.
            Err(error) if code(&error) == Some(409) => {
                let name = name_of(spec.replica_id);
                let found = self.pods.get(&name).await;
                found.map_err(|error| of_start("read the pod of a replica", &error))?
            }
            Err(error) => return Err(of_start("make the pod of a replica", &error)),
        };
        // Nothing runs in the pod before there is its secret.
        let policies = Policies {
            api: &self.policies,
            config: &self.config,
            own,
        };
        let owner = owner.cloned().unwrap_or_else(|| owned_by(&pod));
        policies.ensure(&spec.networks, &owner).await?;
        let secret = manifest::secret(spec, &self.config, &pod);
        match self.secrets.create(&params, &secret).await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == Some(409) => Ok(()),
            Err(error) => Err(of_start("make the secret of a replica", &error)),
        }
    }

    /// The last that a replica has logged, as the end of a sentence about it.
    async fn last_words(&self, id: ReplicaId) -> String {
        let log = self.logs(id, SHOWN_LOG_LINES).await;
        let log = log.ok().flatten().unwrap_or_default();
        let lines: Vec<&str> = log.lines().map(str::trim).collect();
        match lines.is_empty() {
            true => String::new(),
            false => format!("; its log: {}", lines.join(" | ")),
        }
    }

    /// Waits until the pod is ready; answers where it is.
    async fn ready(&self, spec: &ReplicaSpec) -> Result<String, BackendError> {
        let id = spec.replica_id;
        let mut pods = self.view.subscribe();
        let mut waits_for = "the Kubernetes API has not told of its pod".to_owned();
        let ready = async {
            loop {
                let seen = pods.borrow_and_update().by_id.get(&id).cloned();
                if let Some(seen) = seen {
                    match (seen.health, seen.endpoint) {
                        (ReplicaHealth::Ready, Some(endpoint)) => return Ok(endpoint),
                        (ReplicaHealth::Unhealthy(mut why), _) => {
                            if seen.was_ended {
                                why.push_str(&format!(
                                    ", as one is ended that is not ready within {} ms (`startup_timeout_ms`)",
                                    spec.startup.as_millis()
                                ));
                            }
                            let words = self.last_words(id).await;
                            return Err(BackendError::Unavailable(why + &words));
                        }
                        _ => waits_for = seen.waits_for,
                    }
                }
                if pods.changed().await.is_err() {
                    // The view lives as long as `self`.
                    let message = "the watch of pods has ended".to_owned();
                    return Err(BackendError::Unavailable(message));
                }
            }
        };
        let longest = self.config.settings.start_timeout;
        let ended = tokio::time::timeout(longest, ready).await;
        ended.unwrap_or_else(|_| {
            let seconds = longest.as_secs_f32();
            Err(BackendError::Unavailable(format!(
                "the pod was not ready within {seconds} s: {waits_for}"
            )))
        })
    }
}

#[async_trait]
impl Backend for KubernetesReplicas {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    /// A pod has one of its own, or of a volume that the daemon need not have.
    fn has_workspaces(&self) -> bool {
        false
    }

    async fn start(&self, spec: &ReplicaSpec) -> Result<Option<String>, BackendError> {
        let id = spec.replica_id;
        // Taken back by `stop` where the future is dropped.
        self.starting().insert(id);
        let started = match self.make(spec).await {
            Ok(()) => self.ready(spec).await,
            Err(error) => Err(error),
        };
        self.starting().remove(&id);
        started.map(Some)
    }

    async fn health(&self, id: ReplicaId) -> Result<ReplicaHealth, BackendError> {
        if let Some(seen) = self.view.pods().by_id.get(&id) {
            return Ok(seen.health.clone());
        }
        if self.starting().contains(&id) {
            return Ok(ReplicaHealth::Starting);
        }
        // That it was not seen may mean that the watch is behind.
        match self.pods.get_opt(&name_of(id)).await {
            Ok(None) => Ok(ReplicaHealth::Gone),
            Ok(Some(pod)) => Ok(Seen::of(&pod).health),
            Err(error) => Err(KubernetesError::new("read the pod of a replica", &error).into()),
        }
    }

    /// The replica itself is told by its protocol.
    async fn drain(&self, _id: ReplicaId, _grace: Duration) -> Result<bool, BackendError> {
        Ok(true)
    }

    async fn stop(&self, id: ReplicaId) -> Result<(), BackendError> {
        // The secret belongs to the pod and goes with it.
        let deleted = self
            .pods
            .delete(&name_of(id), &DeleteParams::default())
            .await;
        match deleted {
            Ok(_) => {}
            Err(error) if code(&error) == Some(404) => {}
            Err(error) => {
                return Err(KubernetesError::new("delete the pod of a replica", &error).into());
            }
        }
        self.starting().remove(&id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<ReplicaId>, BackendError> {
        if !self.view.known().await {
            let message = "the Kubernetes API does not answer, so no pod is known";
            return Err(BackendError::Unavailable(message.to_owned()));
        }
        let pods = self.view.pods();
        let there = pods.by_id.iter().filter(|(_, seen)| !seen.is_deleting);
        Ok(there.map(|(id, _)| *id).collect())
    }

    async fn logs(&self, id: ReplicaId, lines: usize) -> Result<Option<String>, BackendError> {
        let mut lines = lines;
        loop {
            let params = LogParams {
                tail_lines: i64::try_from(lines).ok(),
                limit_bytes: i64::try_from(MAX_LOG_BYTES).ok(),
                ..LogParams::default()
            };
            // The kubelet cuts the end off, maybe in the middle of a character, and that is what is asked for.
            match self.pods.logs(&name_of(id), &params).await {
                Ok(text) if text.len() >= MAX_LOG_BYTES && lines > 1 => lines /= 2,
                Err(kube::Error::FromUtf8(_)) if lines > 1 => lines /= 2,
                Ok(text) => return Ok(Some(text)),
                // There is none, or it has not begun.
                Err(error) if matches!(code(&error), Some(400 | 404)) => return Ok(None),
                Err(error) => {
                    return Err(KubernetesError::new("read the log of a replica", &error).into());
                }
            }
        }
    }
}
