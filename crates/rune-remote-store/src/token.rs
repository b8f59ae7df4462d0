//! Who calls: tokens that this daemon signs, for replicas and split gateways, and nobody else.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Router};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rune_http::{ApiError, Json};
use rune_runtime::{SecretError, SecretKeySource};
use rune_store_runtime::{DeploymentId, ErrorCode, ReplicaId, Store, Timestamp};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::call::TOKEN;
use crate::{DeploymentScope, Scope, StoreServer};

/// For whom a replica's token is.
const REPLICA: &str = "rune-replica";
/// For whom the token of a split gateway is.
const GATEWAY: &str = "rune-gateway";
/// What the key is derived for.
const PURPOSE: &str = "internal tokens";
/// How long a replica's token is valid at least; it is renewed before.
const REPLICA_VALIDITY: Duration = Duration::from_secs(10 * 60);
/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(30);

/// A token, and how long it is valid.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    /// The token.
    pub token: SecretString,
    /// How long it is valid from now on.
    pub valid_for: Duration,
}

/// What the renewal of a token answers.
#[derive(Serialize, Deserialize)]
pub(crate) struct RenewedToken {
    pub(crate) token: String,
    pub(crate) valid_for_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    /// The replica, or the name of the gateway.
    sub: String,
    /// The replica's deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deployment: Option<DeploymentId>,
    /// The namespace of that. It is known by this where the deployment is deleted and the replica finishes what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    iat: i64,
    exp: i64,
}

/// Whom an internal token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InternalCaller {
    /// A replica, which may touch what is its deployment's.
    Replica(Box<DeploymentScope>),
    /// A split gateway, which speaks for callers that it has authenticated.
    Gateway,
}

/// Makes the tokens of replicas and gateways, and says whom one speaks for.
///
/// They are signed with a key that nothing else uses, so that no other token or key of Rune opens
/// the internal routes, and these open no others.
pub struct InternalTokens {
    store: Store,
    source: SecretKeySource,
    key: OnceCell<Vec<u8>>,
    /// How long a replica's token is valid.
    replica_validity: Duration,
}

impl InternalTokens {
    /// Tokens that are signed with a key derived from this one.
    #[must_use]
    pub fn new(store: Store, source: SecretKeySource) -> Self {
        Self {
            store,
            source,
            key: OnceCell::new(),
            replica_validity: REPLICA_VALIDITY,
        }
    }

    /// The same for replicas that go on for so long without their daemon: each has a valid token then, having renewed it at
    /// half of its time.
    #[must_use]
    pub fn outlasting(self, orphan_after: Duration) -> Self {
        Self {
            replica_validity: REPLICA_VALIDITY.max(orphan_after * 2),
            ..self
        }
    }

    /// Makes the key where there is none, so that who signs with it beside this process finds it.
    ///
    /// # Errors
    /// A [`SecretError`] where there can be none.
    pub async fn prepare(&self) -> Result<(), SecretError> {
        self.key().await.map(drop)
    }

    /// The token of a replica. It is valid for ten minutes, or longer ([`InternalTokens::outlasting`]), and only while the
    /// replica's row is there.
    ///
    /// # Errors
    /// A [`SecretError`] where there is no key to sign it with.
    pub async fn for_replica(
        &self,
        replica: ReplicaId,
        deployment: DeploymentId,
        namespace: &str,
    ) -> Result<IssuedToken, SecretError> {
        let claims = Claims {
            aud: REPLICA.to_owned(),
            sub: replica.to_string(),
            deployment: Some(deployment),
            namespace: Some(namespace.to_owned()),
            ..Claims::of(self.store.now(), self.replica_validity)
        };
        sign(&claims, self.key().await?, self.replica_validity)
    }

    /// The token of a split gateway, signed with a key derived from this one, as [`InternalTokens::new`] verifies it. `name`
    /// is for people.
    ///
    /// # Errors
    /// A [`SecretError`] where there is no key to sign it with.
    pub async fn for_gateway(
        source: &SecretKeySource,
        name: &str,
        now: Timestamp,
        valid_for: Duration,
    ) -> Result<IssuedToken, SecretError> {
        let claims = Claims {
            aud: GATEWAY.to_owned(),
            sub: name.to_owned(),
            ..Claims::of(now, valid_for)
        };
        sign(&claims, &source.derive(PURPOSE).await?, valid_for)
    }

    /// Who sent these headers.
    ///
    /// # Errors
    /// `unauthenticated` where it is nobody that this daemon gave a token to, or a replica that
    /// was stopped.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<InternalCaller, ApiError> {
        let claims = self.verify(headers).await?;
        if claims.aud == GATEWAY {
            return Ok(InternalCaller::Gateway);
        }
        let replica: ReplicaId = claims.sub.parse().map_err(|_| refused(INVALID))?;
        let row = self.store.replica(replica).await?;
        let row = row.filter(|row| Some(row.deployment_id) == claims.deployment);
        let Some(row) = row else {
            return Err(refused("the replica of this token was stopped"));
        };
        let version = self.store.version(row.version_id).await?;
        let (Some(namespace), Some(version)) = (claims.namespace, version) else {
            return Err(refused(INVALID));
        };
        Ok(InternalCaller::Replica(Box::new(DeploymentScope {
            replica_id: replica,
            deployment_id: row.deployment_id,
            version_id: version.id,
            namespace,
            agent: version.agent,
        })))
    }

    /// The same for what only replicas may ask.
    ///
    /// # Errors
    /// As [`InternalTokens::authenticate`]; `denied` where it is a gateway.
    pub async fn authenticate_replica(
        &self,
        headers: &HeaderMap,
    ) -> Result<Box<DeploymentScope>, ApiError> {
        match self.authenticate(headers).await? {
            InternalCaller::Replica(scope) => Ok(scope),
            InternalCaller::Gateway => {
                let message = "this is for replicas, and the token is that of a gateway";
                Err(ApiError::new(ErrorCode::Denied, message))
            }
        }
    }

    /// The same for what only split gateways may ask.
    ///
    /// # Errors
    /// As [`InternalTokens::authenticate`]; `denied` where it is a replica.
    pub async fn authenticate_gateway(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        match self.authenticate(headers).await? {
            InternalCaller::Gateway => Ok(()),
            InternalCaller::Replica(_) => {
                let message = "this is for gateways, and the token is that of a replica";
                Err(ApiError::new(ErrorCode::Denied, message))
            }
        }
    }

    async fn verify(&self, headers: &HeaderMap) -> Result<Claims, ApiError> {
        let value = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
        let token = value
            .and_then(|value| std::str::from_utf8(value).ok()?.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        let Some(token) = token else {
            return Err(refused(
                "the token of a replica or a gateway is needed: `authorization: Bearer TOKEN`",
            ));
        };
        let mut validation = Validation::new(Algorithm::HS256);
        // By the clock of the store, below.
        validation.validate_exp = false;
        validation.set_audience(&[REPLICA, GATEWAY]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        let key = self.key().await.map_err(|error| {
            ApiError::unavailable(format!("tokens cannot be verified: {error}"))
        })?;
        let claims = decode::<Claims>(token, &DecodingKey::from_secret(key), &validation)
            .map_err(|_| refused(INVALID))?
            .claims;
        let now = self.store.now().minus(LEEWAY).as_millis().div_euclid(1000);
        if claims.exp < now {
            return Err(refused("the token has expired"));
        }
        Ok(claims)
    }

    async fn key(&self) -> Result<&[u8], SecretError> {
        let key = self.key.get_or_try_init(|| self.source.derive(PURPOSE));
        key.await.map(Vec::as_slice)
    }
}

impl Claims {
    /// Nobody's yet.
    fn of(now: Timestamp, valid_for: Duration) -> Self {
        Self {
            aud: String::new(),
            sub: String::new(),
            deployment: None,
            namespace: None,
            iat: now.as_millis().div_euclid(1000),
            exp: now.plus(valid_for).as_millis().div_euclid(1000),
        }
    }
}

fn sign(claims: &Claims, key: &[u8], valid_for: Duration) -> Result<IssuedToken, SecretError> {
    let key = EncodingKey::from_secret(key);
    let token = encode(&Header::new(Algorithm::HS256), claims, &key);
    Ok(IssuedToken {
        token: token.map_err(|_| SecretError::Cipher)?.into(),
        valid_for,
    })
}

const INVALID: &str = "the token is not valid here";

fn refused(message: &'static str) -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, message)
}

/// The internal API: the store, and the renewal of tokens, for replicas with a token of
/// [`InternalTokens`] only.
pub struct InternalApi {
    /// The store.
    pub store: StoreServer,
    /// Who may call.
    pub tokens: Arc<InternalTokens>,
}

impl InternalApi {
    /// Where split gateways send what they are asked; what answers it is above this crate.
    pub const FORWARDED: &str = "/internal/v1/gateway/{*path}";

    /// The paths.
    pub const ROUTES: &[&str] = &{
        let [commands, read, blobs, blob] = StoreServer::ROUTES;
        [commands, read, blobs, blob, TOKEN]
    };

    /// The routes, which authenticate their callers themselves.
    pub fn router(self) -> Router {
        let renewal = Router::new()
            .route(TOKEN, post(renew))
            .with_state(Arc::clone(&self.tokens));
        self.store
            .router()
            .merge(renewal)
            .route_layer(from_fn_with_state(self.tokens, authenticate))
    }
}

async fn authenticate(
    State(tokens): State<Arc<InternalTokens>>,
    mut request: Request,
    next: Next,
) -> Response {
    match tokens.authenticate_replica(request.headers()).await {
        Ok(scope) => {
            let scope = Scope::Deployment(scope);
            request.extensions_mut().insert(scope);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

async fn renew(
    State(tokens): State<Arc<InternalTokens>>,
    Extension(scope): Extension<Scope>,
) -> Result<Json<RenewedToken>, ApiError> {
    let Scope::Deployment(scope) = scope else {
        return Err(ApiError::new(
            ErrorCode::Denied,
            "only replicas renew tokens",
        ));
    };
    let issued = tokens.for_replica(scope.replica_id, scope.deployment_id, &scope.namespace);
    let issued = issued
        .await
        .map_err(|error| ApiError::unavailable(format!("the token cannot be renewed: {error}")))?;
    Ok(Json(RenewedToken {
        token: issued.token.expose_secret().to_owned(),
        valid_for_ms: u64::try_from(issued.valid_for.as_millis()).unwrap_or(u64::MAX),
    }))
}
