//! Webhooks of calls that this installation made of agents elsewhere.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use rune_http::{ApiError, ErrorBody, Path};
use rune_runtime::WAKEUP_PATH;
use rune_store_runtime::ErrorCode;

use crate::gateway::Shared;

/// The route; who knows the token needs no other credentials.
pub(crate) const ROUTE: &str = "/v1/wakeups/{token}";
const _: () = {
    let (route, path) = (ROUTE.as_bytes(), WAKEUP_PATH.as_bytes());
    assert!(route.len() == path.len() + "{token}".len());
    let mut at = 0;
    while at < path.len() {
        assert!(route[at] == path[at], "agents are told another path");
        at += 1;
    }
};

/// An agent elsewhere has something to say about a call that waits for it. The body is not read: the call looks for itself.
#[utoipa::path(
    post, path = "/v1/wakeups/{token}", tag = "a2a",
    params(("token" = String, Path, description = "As the agent was told it")),
    request_body(content = Object, content_type = "application/json", description = "Passed over"),
    responses(
        (status = 204, description = "The call looks at its task"),
        (status = 404, body = ErrorBody, description = "No call waits for that"),
    )
)]
pub(crate) async fn wake(
    State(shared): State<Arc<Shared>>,
    Path(token): Path<String>,
) -> Result<StatusCode, ApiError> {
    match shared.engine.wake(&token) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::new(ErrorCode::NotFound, "no call waits for this")),
    }
}
