//! Agents as the tools of an MCP server.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use rune_http::{ApiError, Caller, ErrorBody, MAX_BODY_BYTES, ServerSentEvent, read_body};

use super::Target;
use crate::gateway::Shared;

/// A message of an MCP client, in either era of the protocol: `initialize` begins a session, a message with
/// `_meta["io.modelcontextprotocol/protocolVersion"]` needs none.
#[utoipa::path(
    post, path = "/mcp", tag = "mcp", params(Target),
    request_body(
        content = Object, content_type = "application/json", description = "A JSON-RPC message",
        example = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "example", "version": "1.0.0"},
        }}),
    ),
    responses(
        (status = 200, content((Object = "application/json"), (ServerSentEvent = "text/event-stream")), description = "The answer, or a stream that ends with it"),
        (status = 202, description = "Taken: a notification, or an answer to a question of the server"),
        (status = 400, content((Object = "application/json"), (String = "text/plain")), description = "Not a message as the protocol wants it"),
        (status = 403, content((ErrorBody = "application/json"), (String = "text/plain")), description = "A foreign `Host` or `Origin`"),
        (status = 404, content((Object = "application/json"), (String = "text/plain")), description = "No such session, or no such method"),
        (status = 406, body = String, content_type = "text/plain", description = "`Accept` must have application/json and text/event-stream"),
        (status = 415, body = String, content_type = "text/plain", description = "Not JSON"),
    )
)]
pub(crate) async fn post(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    // Read as every body is: within a size, and within a time.
    let body = read_body(Request::from_parts(head.clone(), body), MAX_BODY_BYTES).await?;
    let request = Request::from_parts(head, Body::from(body));
    Ok(answer(&shared, &caller, request).await)
}

/// The stream of what a session is told without having asked, such as that the tools have changed; or, with `Last-Event-ID`, what
/// was missed of an answer.
#[utoipa::path(
    get, path = "/mcp", tag = "mcp", params(
        Target,
        ("Mcp-Session-Id" = Option<String>, Header, description = "The session, as `initialize` has answered"),
        ("Last-Event-ID" = Option<String>, Header, description = "As sent by a returning client"),
    ),
    responses(
        (status = 200, body = ServerSentEvent, content_type = "text/event-stream", description = "Messages"),
        (status = 400, body = String, content_type = "text/plain", description = "No session is named, or the protocol version is not known"),
        (status = 403, content((ErrorBody = "application/json"), (String = "text/plain")), description = "A foreign `Host` or `Origin`"),
        (status = 404, body = String, content_type = "text/plain", description = "No such session"),
        (status = 405, body = String, content_type = "text/plain", description = "Not in the era without sessions"),
        (status = 406, body = String, content_type = "text/plain", description = "`Accept` must have text/event-stream"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Response {
    answer(&shared, &caller, request).await
}

/// Ends a session. Its requests go on.
#[utoipa::path(
    delete, path = "/mcp", tag = "mcp", params(
        Target,
        ("Mcp-Session-Id" = Option<String>, Header, description = "The session"),
    ),
    responses(
        (status = 202, description = "Ended"),
        (status = 400, body = String, content_type = "text/plain", description = "No session is named, or the protocol version is not known"),
        (status = 403, content((ErrorBody = "application/json"), (String = "text/plain")), description = "A foreign `Host` or `Origin`"),
        (status = 404, body = String, content_type = "text/plain", description = "No such session"),
        (status = 405, body = String, content_type = "text/plain", description = "Not in the era without sessions"),
    )
)]
pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Response {
    answer(&shared, &caller, request).await
}

async fn answer(shared: &Shared, caller: &Caller, request: Request) -> Response {
    let answered = shared.mcp.handle(request, &caller.id).await;
    let mut response = answered.map(Body::new);
    let has_body = response.body().size_hint().exact() != Some(0);
    if has_body && !response.headers().contains_key(CONTENT_TYPE) {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
    }
    response
}
