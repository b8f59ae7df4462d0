//! Events that agents and callers publish.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use rune_http::{ApiError, Caller, Json, List, ListPage, PageQuery};
use rune_runtime::Publication;
use rune_store_runtime::{EventFilter, EventId, EventRow, RequestId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::DEFAULT_NAMESPACE;
use crate::gateway::Shared;

/// An event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventView {
    #[schema(value_type = String)]
    id: EventId,
    namespace: String,
    topic: String,
    payload: Value,
    /// The agent or caller that published it.
    publisher: String,
    /// The request that did.
    #[schema(value_type = Option<String>)]
    request_id: Option<RequestId>,
    /// How many events led to it.
    depth: u32,
    /// How many requests it made.
    requests: u64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

impl From<EventRow> for EventView {
    fn from(row: EventRow) -> Self {
        Self {
            id: row.id,
            namespace: row.namespace,
            topic: row.topic,
            payload: row.payload,
            publisher: row.publisher,
            request_id: row.request_id,
            depth: row.depth,
            requests: row.fires,
            at: row.at,
        }
    }
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only in this namespace.
    ns: Option<String>,
    /// Only about this topic.
    topic: Option<String>,
}

/// Events, newest first; the last ten thousand of a namespace are kept.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<EventView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List { filter, page }: List<ListQuery>,
) -> Result<Json<ListPage<EventView>>, ApiError> {
    let filter = EventFilter {
        namespace: filter.ns,
        topic: filter.topic,
    };
    let found = shared.engine.store().events(&filter, &page).await?;
    let found = found.map(EventView::from);
    Ok(Json(found.into()))
}

/// What happened.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishRequest {
    /// What it is about: 1 to 128 of `A-Za-z0-9._:/-`.
    topic: String,
    /// What is to be known of it; any JSON value.
    #[serde(default)]
    payload: Value,
    /// Namespace, `dev` by default.
    namespace: Option<String>,
}

/// Publishes an event. Every schedule that is about its topic makes one request of it.
#[utoipa::path(
    post, path = "/v1/events", tag = "events", request_body(content = PublishRequest, example = json!({"topic": "orders.paid", "payload": {"order": 17}})),
    responses(
        (status = 201, body = EventView, description = "Published"),
    )
)]
pub(crate) async fn publish(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Json(body): Json<PublishRequest>,
) -> Result<(StatusCode, Json<EventView>), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
    if body.topic.is_empty() || !body.topic.chars().all(allowed) {
        return Err(ApiError::invalid(
            "`topic` is 1 to 128 of A-Z a-z 0-9 . _ : / -",
        ));
    }
    let event_id = EventId::generate();
    let publication = Publication {
        event_id,
        namespace: body
            .namespace
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        topic: body.topic,
        payload: body.payload,
        publisher: caller.id.as_ref().to_owned(),
        request_id: None,
        depth: 0,
    };
    shared.engine.publish(publication).await?;
    let row = shared.engine.store().event(event_id).await?;
    let row = row.ok_or_else(|| ApiError::not_found("event", &event_id))?;
    Ok((StatusCode::CREATED, Json(row.into())))
}
