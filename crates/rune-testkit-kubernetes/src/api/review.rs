//! What a caller may do: the answer to `kubectl auth can-i`.

use axum::body::Body;
use http::{Method, Response};
use serde_json::json;

use super::json as respond;
use crate::access::{Identity, Request};
use crate::call::Call;
use crate::cluster::Cluster;
use crate::object::{self, text};
use crate::status::{ApiError, ApiResult};

pub(super) fn access(
    cluster: &Cluster,
    call: &Call,
    identity: &Identity,
) -> ApiResult<Response<Body>> {
    if call.method != Method::POST {
        return Err(ApiError::method_not_allowed(call.method.as_str()));
    }
    let mut review = call.json()?;
    let of = |name: &str| text(&review, &format!("/spec/resourceAttributes/{name}")).to_owned();
    let resource = match of("subresource").as_str() {
        "" => of("resource"),
        part => format!("{}/{part}", of("resource")),
    };
    let request = Request {
        verb: &of("verb"),
        group: &of("group"),
        resource: &resource,
        namespace: &of("namespace"),
        name: &of("name"),
    };
    let is_allowed = request.is_allowed(&cluster.store(), identity);
    object::set(&mut review, &["status"], json!({"allowed": is_allowed}));
    Ok(respond(201, &review))
}
