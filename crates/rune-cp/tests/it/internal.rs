//! The routes for replicas and split gateways.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use rune_http::Auth;
use rune_remote_store::{InternalApi, RemoteStore, RemoteStoreConfig};
use rune_runtime::Tasks;
use rune_store_runtime::{
    AuditFilter, DeploymentFilter, DeploymentReader as _, PageRequest, RegistryReader as _,
    RemoveReplica, ReplicaFilter, ReplicaRow, StoreError,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use crate::control_plane::{TestControlPlane, answer, refusal};

/// A deployed agent, and a replica of it.
async fn deployed(cp: &TestControlPlane) -> ReplicaRow {
    let package = cp.platform.package("hello", "1.0.0", "");
    let published = cp.publish(package).header("x-api-key", "key");
    assert_eq!(answer(published).await.0, 201);
    let body = json!({"agent": "hello", "version": "1.0.0"});
    let deploy = cp.post("/v1/deployments?wait=ready", &body);
    assert_eq!(answer(deploy.header("x-api-key", "key")).await.0, 201);
    let page = PageRequest::default();
    let store = &cp.platform.store;
    let mut rows = store.replicas(&ReplicaFilter::default(), &page).await;
    rows.as_mut().unwrap().items.remove(0)
}

async fn start() -> TestControlPlane {
    let auth = Auth::new(
        Some(&"key".to_owned().into()),
        Some(&"jwt-secret".to_owned().into()),
        None,
    );
    TestControlPlane::start(auth.unwrap()).await
}

fn remote(cp: &TestControlPlane, token: SecretString) -> RemoteStore {
    let mut config = RemoteStoreConfig::new(cp.url(""), token);
    config.patience = Duration::from_secs(5);
    RemoteStore::new(&config, Tasks::new()).unwrap()
}

/// Every internal path, with the method that it has.
fn routes() -> impl Iterator<Item = (Method, &'static str)> {
    InternalApi::ROUTES.iter().map(|path| {
        let method = match *path {
            "/internal/v1/store/blobs" => Method::PUT,
            "/internal/v1/store/blobs/{digest}" => Method::GET,
            _ => Method::POST,
        };
        (method, *path)
    })
}

#[tokio::test]
async fn no_credentials_of_users_open_an_internal_route() {
    let cp = start().await;
    let token = |claims: serde_json::Value| {
        let key = jsonwebtoken::EncodingKey::from_secret(b"jwt-secret");
        jsonwebtoken::encode(&Default::default(), &claims, &key).unwrap()
    };
    let exp = 4_102_444_800_u64;
    let bearers = [
        "key".to_owned(),
        token(json!({"sub": "alice", "exp": exp})),
        token(json!({"sub": "gateway", "aud": "rune-gateway", "iat": 0, "exp": exp})),
    ];
    for (method, path) in routes() {
        let nobody = cp.client.request(method.clone(), cp.url(path));
        let by_key = cp.client.request(method.clone(), cp.url(path));
        let mut requests = vec![nobody, by_key.header("x-api-key", "key")];
        for bearer in &bearers {
            let request = cp.client.request(method.clone(), cp.url(path));
            requests.push(request.bearer_auth(bearer));
        }
        for (number, request) in requests.into_iter().enumerate() {
            let (status, code, message) = refusal(request).await;
            assert_eq!(
                (status, code.as_str()),
                (401, "unauthenticated"),
                "{method} {path} {number}: {message}"
            );
        }
    }
}

#[tokio::test]
async fn internal_tokens_open_no_other_route() {
    let cp = start().await;
    let replica = deployed(&cp).await;
    let gateway = cp.gateway_token().await;
    let own = cp
        .tokens
        .for_replica(replica.id, replica.deployment_id, "dev")
        .await;
    for token in [gateway, own.unwrap().token] {
        let token = token.expose_secret();
        for operation in cp.document().await.operations() {
            let request = cp
                .client
                .request(operation.method.parse().unwrap(), cp.url(&operation.path))
                .bearer_auth(token);
            let status = request.send().await.unwrap().status();
            let is_refused = status == StatusCode::UNAUTHORIZED;
            assert_eq!(is_refused, !operation.public, "{operation:?}: {status}");
        }
    }
}

#[tokio::test]
async fn a_gateway_has_no_store_and_a_replica_what_is_its_own() {
    let cp = start().await;
    let replica = deployed(&cp).await;
    let page = PageRequest::default();
    let gateway = remote(&cp, cp.gateway_token().await);
    let denied = gateway.deployment(replica.deployment_id).await;
    assert!(matches!(denied, Err(StoreError::Denied(_))), "{denied:?}");

    let own = cp
        .tokens
        .for_replica(replica.id, replica.deployment_id, "dev")
        .await;
    let own = remote(&cp, own.unwrap().token);
    let row = own.version(replica.version_id).await.unwrap();
    assert_eq!(row.unwrap().agent, "hello");
    let denied = own.deployments(&DeploymentFilter::default(), &page).await;
    let Err(StoreError::Denied(reason)) = denied else {
        unreachable!("{denied:?}")
    };
    assert!(reason.contains("Deployments"), "{reason}");
    for _ in 0..3 {
        let again = own.deployments(&DeploymentFilter::default(), &page).await;
        assert!(again.is_err());
    }
    let filter = AuditFilter {
        kind: Some("replica".to_owned()),
        ..AuditFilter::default()
    };
    let trail = cp.platform.store.audit(&filter, &page).await.unwrap().items;
    assert_eq!(trail.len(), 1, "once of each kind: {trail:?}");
    assert_eq!(trail[0].caller, format!("replica:{}", replica.id));
}

#[tokio::test]
async fn a_replica_renews_its_token_until_it_is_stopped() {
    let cp = start().await;
    let replica = deployed(&cp).await;
    let issued = cp
        .tokens
        .for_replica(replica.id, replica.deployment_id, "dev")
        .await;
    let token = issued.unwrap().token;
    let renew = |token: &SecretString| {
        let request = cp.client.post(cp.url("/internal/v1/token"));
        answer(request.bearer_auth(token.expose_secret()))
    };
    let (status, renewed) = renew(&token).await;
    assert_eq!((status, &renewed["valid_for_ms"]), (200, &json!(600_000)));
    let renewed = SecretString::from(renewed["token"].as_str().unwrap().to_owned());
    let store = remote(&cp, renewed.clone());
    assert!(store.version(replica.version_id).await.is_ok());

    // For a replica that this deployment does not have there is no token that counts.
    let stranger = cp.tokens.for_replica(
        rune_store_runtime::ReplicaId::generate(),
        replica.deployment_id,
        "dev",
    );
    assert_eq!(renew(&stranger.await.unwrap().token).await.0, 401);
    let elsewhere = cp.tokens.for_replica(
        replica.id,
        rune_store_runtime::DeploymentId::generate(),
        "dev",
    );
    assert_eq!(renew(&elsewhere.await.unwrap().token).await.0, 401);
    assert_eq!(renew(&cp.gateway_token().await).await.0, 403);

    let remove = RemoveReplica {
        replica_id: replica.id,
    };
    cp.platform.store.write(remove).await.unwrap();
    assert_eq!(renew(&renewed).await.0, 401);
    let refused = store.version(replica.version_id).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
}
