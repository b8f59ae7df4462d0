//! What is special about pods and their accounts: logs and tokens.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Response;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{bytes, json as respond};
use crate::call::{Call, Target};
use crate::cluster::Cluster;
use crate::logs::ContainerLog;
use crate::object::{self, list, text};
use crate::status::{ApiError, ApiResult};
use crate::store::Key;

/// How long a token is said to be valid.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(1);

/// The output of a container.
pub(super) async fn log(
    cluster: &Arc<Cluster>,
    call: &Call,
    target: &Target,
) -> ApiResult<Response<Body>> {
    let namespace = target.namespace.as_deref().unwrap_or("");
    let key = Key::new(target.resource, namespace, &target.name);
    let pod = cluster.store().get(&key).cloned();
    let pod = pod.ok_or_else(|| ApiError::not_found(target.resource, &target.name))?;
    let containers: Vec<&str> = ["/spec/containers", "/spec/initContainers"]
        .iter()
        .flat_map(|kind| list(&pod, kind))
        .map(|container| text(container, "/name"))
        .collect();
    let asked = call.parameter("container");
    let name = match (asked, containers.as_slice()) {
        ("", [one]) => *one,
        ("", several) => {
            let message = format!(
                "a container name must be specified for pod {}, choose one of: {several:?}",
                target.name
            );
            return Err(ApiError::bad_request(message));
        }
        (asked, _) if containers.contains(&asked) => asked,
        (asked, _) => {
            let message = format!("container {asked} is not valid for pod {}", target.name);
            return Err(ApiError::bad_request(message));
        }
    };
    let statuses = ["/status/containerStatuses", "/status/initContainerStatuses"];
    let mut statuses = statuses.iter().flat_map(|of| list(&pod, of));
    let status = statuses.find(|status| text(status, "/name") == name);
    let waits = status.is_none_or(|s| s.pointer("/state/waiting").is_some());
    let has_run = status.is_some_and(|s| s.pointer("/lastState/terminated").is_some());
    if waits && !has_run {
        let why = status.map_or("ContainerCreating", |s| text(s, "/state/waiting/reason"));
        let message = format!(
            "container \"{name}\" in pod \"{}\" is waiting to start: {why}",
            target.name
        );
        return Err(ApiError::bad_request(message));
    }
    let log = cluster.logs.container(object::uid(&pod), name);
    let (tail, end) = log.tail(call.parameter("tailLines").parse().ok());
    if !call.is_set("follow") {
        let limit = call.parameter("limitBytes").parse().unwrap_or(tail.len());
        let tail = tail.slice(..tail.len().min(limit));
        return Ok(bytes("text/plain", tail));
    }
    let first = stream::iter([io::Result::Ok(tail)]);
    let rest = stream::unfold((log, end), follow).map(io::Result::Ok);
    let body = Body::from_stream(first.chain(rest));
    Ok(bytes("text/plain", body))
}

type Following = (Arc<ContainerLog>, usize);

async fn follow((log, place): Following) -> Option<(Bytes, Following)> {
    let (more, end) = log.after(place).await?;
    Some((more, (log, end)))
}

/// A token of a service account.
pub(super) fn token(cluster: &Cluster, target: &Target) -> ApiResult<Response<Body>> {
    let namespace = target.namespace.as_deref().unwrap_or("");
    let key = Key::new(target.resource, namespace, &target.name);
    if cluster.store().get(&key).is_none() {
        return Err(ApiError::not_found(target.resource, &target.name));
    }
    let token = cluster.tokens().issue(namespace, &target.name);
    let end = object::at(Timestamp::now() + TOKEN_LIFE);
    let answer = json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": target.name, "namespace": namespace},
        "spec": {"audiences": [], "expirationSeconds": TOKEN_LIFE.as_secs()},
        "status": {"token": token, "expirationTimestamp": end},
    });
    Ok(respond(201, &answer))
}
