//! Messages that wait for a channel.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, Json, List, ListPage, PageQuery};
use rune_store_runtime::{MessageId, OutboxFilter, OutboxRow, RequestId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::gateway::Shared;

/// A message that an agent sends.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OutboxView {
    #[schema(value_type = String)]
    id: MessageId,
    namespace: String,
    /// The agent that sends it.
    agent: String,
    /// The channel it goes over.
    channel: String,
    /// Who or which room it is for.
    to: String,
    text: String,
    /// The request that sends it.
    #[schema(value_type = String)]
    request_id: RequestId,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<OutboxRow> for OutboxView {
    fn from(row: OutboxRow) -> Self {
        Self {
            id: row.id,
            namespace: row.namespace,
            agent: row.agent,
            channel: row.channel,
            to: row.recipient,
            text: row.text,
            request_id: row.request_id,
            created_at: row.created_at,
        }
    }
}

/// Which messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only of this namespace.
    ns: Option<String>,
    /// Only over this channel.
    channel: Option<String>,
}

/// Messages that wait for a channel, oldest first.
#[utoipa::path(
    get, path = "/v1/outbox", tag = "channels", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<OutboxView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List { filter, page }: List<ListQuery>,
) -> Result<Json<ListPage<OutboxView>>, ApiError> {
    let filter = OutboxFilter {
        namespace: filter.ns,
        channel: filter.channel,
    };
    let found = shared.engine.store().outbox(&filter, &page).await?;
    let found = found.map(OutboxView::from);
    Ok(Json(found.into()))
}
