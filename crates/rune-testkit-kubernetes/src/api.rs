//! Answers requests.

mod objects;
mod pods;
mod review;

use std::sync::Arc;

use axum::body::Body;
use http::{Response, StatusCode, header};
use serde_json::Value;

use crate::access::{Access, Identity, Request};
use crate::call::{Call, Place, Target};
use crate::cluster::Cluster;
use crate::discovery;
use crate::status::{ApiError, ApiResult};

/// Answers a request.
pub(crate) async fn answer(cluster: &Arc<Cluster>, call: &Call) -> Response<Body> {
    match route(cluster, call).await {
        Ok(response) => response,
        Err(error) => json(error.code, &error.status()),
    }
}

async fn route(cluster: &Arc<Cluster>, call: &Call) -> ApiResult<Response<Body>> {
    let identity = {
        let (store, tokens) = (cluster.store(), cluster.tokens());
        let token = call.token();
        token.and_then(|token| tokens.identify(&store, token))
    };
    let place = call.place().ok_or_else(ApiError::no_resource)?;
    if matches!(place, Place::Health) {
        return Ok(plain("ok"));
    }
    let identity = identity.ok_or_else(ApiError::unauthorized)?;
    let document = match place {
        Place::Health => return Ok(plain("ok")),
        Place::Version => Some(discovery::version()),
        Place::CoreVersions => Some(discovery::core_versions()),
        Place::Groups => Some(discovery::group_list()),
        Place::Group(name) => discovery::one_group(&name),
        Place::Resources(group, version) => discovery::resource_list(&group, &version),
        Place::OpenapiV2 => {
            let kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
            return Ok(bytes(kind, discovery::openapi_v2()));
        }
        Place::OpenapiV3 => Some(discovery::openapi_v3()),
        Place::OpenapiV3Of(path) => discovery::openapi_v3_of(&path),
        Place::AccessReview => return review::access(cluster, call, &identity),
        Place::Objects(target) => return objects::route(cluster, call, &identity, target).await,
    };
    let document = document.ok_or_else(ApiError::no_resource)?;
    Ok(json(200, &document))
}

/// Checks that somebody may do what they ask for, and notes it.
fn authorize(cluster: &Cluster, identity: &Identity, verb: &str, target: &Target) -> ApiResult<()> {
    let resource = match target.subresource.as_str() {
        "" => target.resource.plural.to_owned(),
        part => format!("{}/{part}", target.resource.plural),
    };
    let namespace = target.namespace.as_deref().unwrap_or("");
    let request = Request {
        verb,
        group: target.resource.group,
        resource: &resource,
        namespace,
        name: &target.name,
    };
    let is_allowed = request.is_allowed(&cluster.store(), identity);
    cluster.accesses().note(Access {
        user: identity.user.clone(),
        verb: verb.to_owned(),
        group: target.resource.group.to_owned(),
        resource: resource.clone(),
        namespace: namespace.to_owned(),
        is_allowed,
    });
    if is_allowed {
        return Ok(());
    }
    let scope = match namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let why = format!(
        "User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {scope}",
        identity.user, target.resource.group
    );
    Err(ApiError::forbidden(target.resource, &target.name, &why))
}

fn json(code: u16, value: &Value) -> Response<Body> {
    let mut response = bytes("application/json", value.to_string());
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn plain(text: &'static str) -> Response<Body> {
    bytes("text/plain", text)
}

fn bytes(content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}
