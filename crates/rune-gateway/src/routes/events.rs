//! The events of a request.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::request::Parts;
use rune_http::{ApiError, ErrorBody, Path, Query, ServerSentEvent};
use rune_store_runtime::RequestId;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::event_body::event_stream;
use crate::gateway::Shared;

/// Where to begin.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct After {
    /// Sequence number of the last event that is known already; `Last-Event-ID` wins.
    #[serde(default)]
    #[param(required = false, format = "uint64")]
    after: u64,
}

/// Follows a request: its journal from any point on, then what happens live. Ends with the
/// request (`done` or `error`), which is told whatever entry is named. Events with an `id` are journal entries; `token` and
/// `reasoning` have none.
#[utoipa::path(
    get, path = "/v1/requests/{id}/events", tag = "requests",
    params(
        ("id" = String, Path, description = "The request", pattern = "^req_[0-9a-f]{32}$"),
        After,
        ("Last-Event-ID" = Option<u64>, Header, description = "As sent by a returning client", format = "uint64"),
    ),
    responses(
        (status = 200, body = ServerSentEvent, content_type = "text/event-stream", description = "Events"),
        (status = 404, body = ErrorBody, description = "The request does not exist"),
    )
)]
pub(crate) async fn events(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<RequestId>,
    Query(query): Query<After>,
    last: LastEventId,
) -> Result<Response, ApiError> {
    // A returning client sends the header to the URL it began with.
    let after = last.0.unwrap_or(query.after);
    let events = shared.engine.events(id, after).await?;
    Ok(event_stream(events, shared.engine.shutdown()))
}

/// The `Last-Event-ID` header.
pub(crate) struct LastEventId(Option<u64>);

impl<S: Sync> FromRequestParts<S> for LastEventId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get("last-event-id") else {
            return Ok(Self(None));
        };
        let seq = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok());
        seq.map(|seq| Self(Some(seq)))
            .ok_or_else(|| ApiError::invalid("`Last-Event-ID` must be the `id` of an event"))
    }
}
