//! Agents over A2A: JSON-RPC, in the spelling of either version.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;
use rune_a2a::{A2aError, Call, ErrorKind, ProtocolVersion, RpcId, RpcRequest};
use rune_http::{ApiError, Caller, ErrorBody, MAX_BODY_BYTES, Path, read_body};

use super::invoke::KeyHeader;
use crate::a2a::answer::{is_json, rpc, rpc_event};
use crate::a2a::operations::{Asking, Outcome, perform};
use crate::a2a::stream::Envelope;
use crate::a2a::target::A2aTarget;
use crate::gateway::Shared;
use crate::trace::Trace;

/// The header, or the parameter of the query, that names the version.
const VERSION: &str = "a2a-version";

/// A call of an agent over JSON-RPC. Methods of 1.0 (`SendMessage`) and of 0.3 (`message/send`) are answered each
/// in its own form; what goes wrong is an `error` in an answer with status 200.
#[utoipa::path(
    post, path = "/a2a/{agent}", tag = "a2a",
    params(
        ("agent" = String, Path, description = "`AGENT[:ALIAS]`; its namespace is the `tenant` of the parameters"),
        ("A2A-Version" = Option<String>, Header, description = "1.0 or 0.3; absent: as the method is spelled"),
        ("Idempotency-Key" = Option<String>, Header, description = "Of a message that begins a task: 1 to 255 visible ASCII characters"),
    ),
    request_body(content = Object, content_type = "application/json", description = "A JSON-RPC request"),
    responses(
        (status = 200, content((Object = "application/json"), (String = "text/event-stream")), description = "A JSON-RPC response, or a stream of them"),
        (status = 404, body = ErrorBody, description = "The agent is not deployed"),
    )
)]
pub(crate) async fn call(
    State(shared): State<Arc<Shared>>,
    Path(agent): Path<String>,
    caller: Caller,
    key: KeyHeader,
    request: Request,
) -> Result<Response, ApiError> {
    let shutdown = shared.engine.shutdown();
    let headers = request.headers().clone();
    let asked = version(&headers, request.uri().query().unwrap_or_default());
    if !is_json(&headers) {
        let message = "a call needs `content-type: application/json`";
        let error = A2aError::new(ErrorKind::ContentTypeNotSupported, message);
        let id = RpcId::default();
        return Ok(rpc(&id, ProtocolVersion::V1, Err(error), shutdown));
    }
    let body = read_body(request, MAX_BODY_BYTES).await?;
    let request = match RpcRequest::parse(&body) {
        Ok(request) => request,
        Err(no_call) => {
            return Ok(rpc(
                &no_call.id,
                no_call.version,
                Err(no_call.error),
                shutdown,
            ));
        }
    };
    let spelled = ProtocolVersion::of_method(&request.method);
    let refused = |error: A2aError| match request.method.as_str() {
        "message/stream" | "tasks/resubscribe" => rpc_event(&request.id, spelled, &error),
        _ => rpc(&request.id, spelled, Err(error), shutdown.clone()),
    };
    let call = asked.and_then(|_| Call::decode(&request.method, &request.params));
    let call = match call {
        Ok(call) => call,
        Err(error) => return Ok(refused(error)),
    };
    let target = A2aTarget::new(&agent, None);
    let target = match addressed(&shared, target, call.tenant.as_deref())? {
        Ok(target) => target,
        Err(error) => return Ok(refused(error)),
    };
    let asking = Asking {
        base: shared.a2a.base(&headers),
        shared: &shared,
        target,
        caller,
        key,
        trace: Trace::of(&headers),
        envelope: Envelope::Rpc(request.id.clone()),
    };
    // On the heap: it is the largest of the futures here.
    let outcome: Result<Outcome, A2aError> = Box::pin(perform(asking, call)).await;
    Ok(match outcome {
        Ok(outcome) => rpc(&request.id, spelled, Ok(outcome), shutdown.clone()),
        Err(error) => refused(error),
    })
}

/// The version that the client asks for, by header or query.
pub(crate) fn version(
    headers: &HeaderMap,
    query: &str,
) -> Result<Option<ProtocolVersion>, A2aError> {
    let header = match headers.get(VERSION) {
        Some(value) => Some(value.to_str().unwrap_or("?").to_owned()),
        None => query.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.eq_ignore_ascii_case(VERSION).then(|| value.to_owned())
        }),
    };
    ProtocolVersion::requested(header.as_deref())
}

/// The agent of a path in the tenant that a call names.
///
/// # Errors
/// `not_found` where it is not deployed; within, where it is not in the tenant.
pub(crate) fn addressed(
    shared: &Shared,
    target: A2aTarget,
    tenant: Option<&str>,
) -> Result<Result<A2aTarget, A2aError>, ApiError> {
    match tenant {
        Some(tenant) => Ok(target.of_tenant(&shared.engine, tenant)),
        None => target.deployment(&shared.engine).map(|_| Ok(target)),
    }
}
