//! The in-process backend: replicas that live in this process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec};
use rune_store_runtime::ReplicaId;

use crate::agent::AgentLoader;
use crate::package_cache::PackageCache;
use crate::replica::Replica;
use crate::router::ReplicaRouter;

/// Starts replicas in this process and hands them to the router.
pub struct LocalBackend {
    loader: Arc<AgentLoader>,
    packages: PackageCache,
    router: ReplicaRouter,
}

impl LocalBackend {
    /// A backend without replicas.
    #[must_use]
    pub const fn new(
        loader: Arc<AgentLoader>,
        packages: PackageCache,
        router: ReplicaRouter,
    ) -> Self {
        Self {
            loader,
            packages,
            router,
        }
    }
}

#[async_trait]
impl Backend for LocalBackend {
    fn name(&self) -> &'static str {
        "wasm"
    }

    async fn start(&self, spec: &ReplicaSpec) -> Result<Option<String>, BackendError> {
        if self.router.replica(spec.replica_id).is_some() {
            return Ok(None);
        }
        let dir = self.packages.get(&spec.digest).await;
        let dir = dir.map_err(|error| BackendError::Unavailable(error.to_string()))?;
        let loader = Arc::clone(&self.loader);
        let (namespace, env) = (spec.namespace.clone(), spec.env.clone());
        let agent = tokio::task::spawn_blocking(move || loader.load(&dir, &namespace, &env)).await;
        let agent = agent.map_err(|error| BackendError::Unavailable(error.to_string()))?;
        let agent = agent.map_err(|error| BackendError::Invalid(error.to_string()))?;
        agent.prepare().await.map_err(|error| {
            let message = error.to_string();
            if error.is_transient() {
                BackendError::Unavailable(message)
            } else {
                BackendError::Invalid(message)
            }
        })?;
        tokio::fs::create_dir_all(agent.workspace())
            .await
            .map_err(|error| {
                let workspace = agent.workspace().display();
                BackendError::Unavailable(format!("cannot create workspace {workspace}: {error}"))
            })?;
        let connected = agent.connect().await;
        connected.map_err(|error| BackendError::Unavailable(error.to_string()))?;
        let replica = Replica::local(
            spec.replica_id,
            spec.deployment_id,
            spec.version_id,
            Arc::new(agent),
        );
        self.router.add_replica(replica);
        Ok(None)
    }

    async fn health(&self, id: ReplicaId) -> Result<ReplicaHealth, BackendError> {
        let known = self.router.replica(id).is_some();
        Ok(if known {
            ReplicaHealth::Ready
        } else {
            ReplicaHealth::Gone
        })
    }

    async fn drain(&self, id: ReplicaId, grace: Duration) -> Result<bool, BackendError> {
        match self.router.replica(id) {
            None => Ok(true),
            Some(replica) => {
                replica.drain();
                Ok(tokio::time::timeout(grace, replica.idle()).await.is_ok())
            }
        }
    }

    async fn stop(&self, id: ReplicaId) -> Result<(), BackendError> {
        if let Some(replica) = self.router.replica(id) {
            self.router.remove_replica(replica.deployment_id(), id);
        }
        Ok(())
    }
}
