//! What a replica serves to its daemon.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use rune_http::{ApiError, Auth, Edge, Json, Path};
use rune_runtime::{Engine, ReplicaStatus, RunRequest};
use rune_store_runtime::{DeploymentId, ReplicaId, RequestId};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::run_body::run_body;
use crate::usage::usage;

/// Who asks whether it is there needs no credentials.
const PUBLIC_ROUTES: &[&str] = &["/health"];

/// The API of a replica.
pub struct ReplicaApi {
    /// What runs the requests.
    pub engine: Engine,
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// What it was started from.
    pub fingerprint: String,
    /// The longest that it says nothing while it runs a request.
    pub quiet: Duration,
    /// The daemon alone may ask.
    pub auth: Auth,
    /// Fires when it is told to take nothing new.
    pub draining: CancellationToken,
}

struct Shared {
    engine: Engine,
    replica_id: ReplicaId,
    deployment_id: DeploymentId,
    fingerprint: String,
    quiet: Duration,
    draining: CancellationToken,
}

impl Shared {
    fn status(&self) -> ReplicaStatus {
        let agent = self.engine.router().agent(self.deployment_id);
        ReplicaStatus {
            replica_id: self.replica_id,
            deployment_id: self.deployment_id,
            fingerprint: self.fingerprint.clone(),
            draining: self.draining.is_cancelled(),
            running: self.engine.running(),
            held: agent.map_or(0, |agent| agent.held()),
            usage: None,
        }
    }
}

impl ReplicaApi {
    /// The routes, protected.
    pub fn router(self) -> Router {
        let shared = Shared {
            engine: self.engine,
            replica_id: self.replica_id,
            deployment_id: self.deployment_id,
            fingerprint: self.fingerprint,
            quiet: self.quiet,
            draining: self.draining,
        };
        let router = Router::new()
            .route("/health", get(health))
            .route("/v1/status", get(status))
            .route("/v1/run", post(run))
            .route("/v1/requests/{id}/cancel", post(cancel))
            .route("/v1/drain", post(drain))
            .with_state(Arc::new(shared));
        Edge::new("replica", self.auth, PUBLIC_ROUTES).protect(router)
    }
}

/// Whether a replica takes requests.
#[derive(Serialize)]
struct Health {
    status: &'static str,
}

async fn health(State(shared): State<Arc<Shared>>) -> Json<Health> {
    let status = match shared.draining.is_cancelled() {
        true => "draining",
        false => "ready",
    };
    Json(Health { status })
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<ReplicaStatus> {
    // What cannot be said is left out.
    let usage = tokio::task::spawn_blocking(usage).await.ok().flatten();
    Json(ReplicaStatus {
        usage,
        ..shared.status()
    })
}

async fn run(
    State(shared): State<Arc<Shared>>,
    Json(ask): Json<RunRequest>,
) -> Result<Response, ApiError> {
    let is_new = !shared.engine.running().contains(&ask.request_id);
    if is_new && shared.draining.is_cancelled() {
        return Err(ApiError::unavailable("the replica drains"));
    }
    let run = shared.engine.join(ask).await?;
    Ok(run_body(run, shared.quiet))
}

async fn cancel(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<RequestId>,
) -> Json<ReplicaStatus> {
    if !shared.engine.stop_run(id) {
        tracing::debug!(request = %id, "a request was to be stopped that does not run here");
    }
    Json(shared.status())
}

async fn drain(State(shared): State<Arc<Shared>>) -> Json<ReplicaStatus> {
    shared.draining.cancel();
    Json(shared.status())
}
