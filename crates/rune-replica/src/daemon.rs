//! What the daemon serves to its replicas, beside its store.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Router};
use rune_http::{ApiError, Json};
use rune_remote_store::{DeploymentScope, InternalTokens};
use rune_runtime::{
    Asker, Engine, EngineAnswer, EngineOp, Hold, SecretError, SecretVault, deployment_of,
};
use rune_store_runtime::{ErrorCode, RequestId};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use crate::boot::{BootSource, ReplicaBoot};

/// What a replica starts from.
pub(crate) const BOOT: &str = "/internal/v1/replica";
/// What a request has the engine of the daemon do.
pub(crate) const ENGINE: &str = "/internal/v1/engine";
/// Secrets that the agent is granted.
pub(crate) const SECRETS: &str = "/internal/v1/secrets";

/// The part of the internal API that has the engine behind it.
#[derive(Clone)]
pub struct DaemonApi {
    /// Does what requests want of the engine.
    pub engine: Engine,
    /// Opens the secrets that agents are granted.
    pub secrets: SecretVault,
    /// Says who a replica is.
    pub tokens: Arc<InternalTokens>,
    /// Says what replicas start from.
    pub boot: Arc<dyn BootSource>,
}

/// A replica that starts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Booting {
    /// What it was made from, see [`deployment_of`].
    pub(crate) fingerprint: String,
}

/// What is done for a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acted {
    pub(crate) request_id: RequestId,
    pub(crate) op: EngineOp,
}

/// A secret that is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    pub(crate) name: String,
}

/// A secret in clear, or why not.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Granted {
    Value(String),
    Missing,
    Refused(String),
}

impl DaemonApi {
    /// The paths.
    pub const ROUTES: &[&str] = &[BOOT, ENGINE, SECRETS];

    /// The routes, which authenticate their callers themselves.
    pub fn router(self) -> Router {
        let shared = Arc::new(self);
        Router::new()
            .route(BOOT, post(boot))
            .route(ENGINE, post(act))
            .route(SECRETS, post(secret))
            .with_state(Arc::clone(&shared))
            .route_layer(from_fn_with_state(shared, authenticate))
    }
}

/// Lets replicas through.
async fn authenticate(
    State(daemon): State<Arc<DaemonApi>>,
    mut request: Request,
    next: Next,
) -> Response {
    match daemon.tokens.authenticate_replica(request.headers()).await {
        Ok(scope) => {
            request.extensions_mut().insert(scope);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

type Scoped = Extension<Box<DeploymentScope>>;

async fn boot(
    State(daemon): State<Arc<DaemonApi>>,
    Extension(scope): Scoped,
    Json(booting): Json<Booting>,
) -> Result<Json<ReplicaBoot>, ApiError> {
    let store = daemon.engine.store();
    let id = scope.deployment_id;
    let deployment = store.deployment(id).await?;
    let deployment = deployment.ok_or_else(|| ApiError::not_found("deployment", &id))?;
    let id = scope.version_id;
    let version = store.version(id).await?;
    let version = version.ok_or_else(|| ApiError::not_found("version", &id))?;
    let fingerprint = &booting.fingerprint;
    let deployment = deployment_of(scope.replica_id, fingerprint, &deployment, &version);
    let deployment = deployment.ok_or_else(|| {
        let message = "what the replica was made from is not deployed any more";
        ApiError::new(ErrorCode::Conflict, message)
    })?;
    let settings = daemon.boot.settings(&deployment, &version).await;
    let settings = settings.map_err(ApiError::unavailable)?;
    Ok(Json(ReplicaBoot {
        deployment,
        version,
        settings,
    }))
}

async fn act(
    State(daemon): State<Arc<DaemonApi>>,
    Extension(scope): Scoped,
    Json(acted): Json<Acted>,
) -> Result<Json<EngineAnswer>, ApiError> {
    let engine = &daemon.engine;
    let id = acted.request_id;
    match engine.hold(id, scope.replica_id).await? {
        Hold::Its => {}
        Hold::NotIts => {
            let message = format!("request `{id}` was taken from this replica");
            return Err(ApiError::new(ErrorCode::Denied, message));
        }
        // The daemon has just begun, and finds out whose it is.
        Hold::Unknown => {
            let message = format!("it is not known yet which replica runs request `{id}`");
            return Err(ApiError::unavailable(message));
        }
    }
    let asker = Asker {
        replica_id: scope.replica_id,
        deployment_id: scope.deployment_id,
        version_id: scope.version_id,
    };
    let answer = engine.act(asker, id, acted.op);
    Ok(Json(answer.await?))
}

async fn secret(
    State(daemon): State<Arc<DaemonApi>>,
    Extension(scope): Scoped,
    Json(Wanted { name }): Json<Wanted>,
) -> Result<Json<Granted>, ApiError> {
    let id = scope.version_id;
    let version = daemon.engine.store().version(id).await?;
    let version = version.ok_or_else(|| ApiError::not_found("version", &id))?;
    let granted = daemon.boot.granted(&version).await;
    if !granted.map_err(ApiError::unavailable)?.contains(&name) {
        let message = format!("no tool and no server of this agent is granted `secret:{name}`");
        return Ok(Json(Granted::Refused(message)));
    }
    let opened = daemon.secrets.open(&scope.namespace, &name).await;
    Ok(Json(match opened {
        Ok(value) => Granted::Value(value.expose_secret().to_owned()),
        Err(SecretError::Missing { .. }) => Granted::Missing,
        Err(SecretError::Store(error)) => return Err(error.into()),
        Err(error) => Granted::Refused(error.to_string()),
    }))
}
