//! Sessions and their messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use rune_http::{
    ApiError, ErrorBody, Json, JsonOrDefault, List, ListPage, NoFilter, PageQuery, Path, Query,
};
use rune_runtime::EngineError;
use rune_store_runtime::{
    Block, CreateSession, DeleteSession, ImageSource, MessageRow, Page, Replaced, RequestId, Role,
    SessionId, SessionRow, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Target;
use crate::gateway::Shared;

/// A new session.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateSessionRequest {
    /// The caller's own notes.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: BTreeMap<String, Value>,
}

/// The new session.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CreateSessionResponse {
    /// Its id.
    #[schema(value_type = String)]
    session_id: SessionId,
}

/// A conversation with one agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionView {
    #[schema(value_type = String)]
    id: SessionId,
    namespace: String,
    agent: String,
    /// The caller's own notes.
    #[schema(value_type = Object)]
    metadata: BTreeMap<String, Value>,
    /// Messages in its history.
    messages: u64,
    /// Requests so far.
    requests: u64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<SessionRow> for SessionView {
    fn from(row: SessionRow) -> Self {
        Self {
            id: row.id,
            namespace: row.namespace,
            agent: row.agent,
            metadata: row.metadata,
            messages: row.messages,
            requests: row.requests,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// One message of a history.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageView {
    /// The journal entry of the request that it comes from.
    seq: u64,
    /// The request it belongs to.
    #[schema(value_type = String)]
    request_id: RequestId,
    /// `user`, `assistant` or `tool`.
    #[schema(value_type = String)]
    role: Role,
    /// What is said, in order.
    blocks: Vec<BlockView>,
    /// What the message stands for, where it is the summary that the model is shown in the place of older ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    replaces: Option<Replaced>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// A part of a message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum BlockView {
    /// Plain text.
    Text { text: String },
    /// An image that the user showed: its type, or where the provider fetches it.
    Image(ImageView),
    /// What the model thought.
    Reasoning { text: String },
    /// A tool call by the model.
    ToolCall {
        id: String,
        name: String,
        input: Value,
    },
    /// Its result.
    ToolResult {
        call_id: String,
        name: String,
        content: String,
        /// Images that the model was shown beside it.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        images: Vec<ImageView>,
        is_error: bool,
    },
}

/// An image: its type, or where the provider fetches it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImageView {
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl From<ImageSource> for ImageView {
    fn from(source: ImageSource) -> Self {
        match source {
            ImageSource::Data { media_type, .. } | ImageSource::Stored { media_type, .. } => Self {
                media_type: Some(media_type),
                url: None,
            },
            ImageSource::Url { url } => Self {
                media_type: None,
                url: Some(url),
            },
        }
    }
}

impl BlockView {
    /// The block without the provider's own form; none where nothing is left.
    fn new(block: Block) -> Option<Self> {
        match block {
            Block::Text { text, .. } => Some(Self::Text { text }),
            Block::Image { source } => Some(Self::Image(source.into())),
            Block::Reasoning { text, .. } => Some(Self::Reasoning { text }),
            Block::ToolCall {
                id, name, input, ..
            } => Some(Self::ToolCall { id, name, input }),
            Block::ToolResult {
                call_id,
                name,
                content,
                images,
                is_error,
            } => Some(Self::ToolResult {
                call_id,
                name,
                content,
                images: images.into_iter().map(Into::into).collect(),
                is_error,
            }),
            Block::Opaque { .. } => None,
        }
    }
}

impl From<MessageRow> for MessageView {
    fn from(row: MessageRow) -> Self {
        Self {
            seq: row.seq,
            request_id: row.request_id,
            role: row.message.role,
            blocks: row
                .message
                .blocks
                .into_iter()
                .filter_map(BlockView::new)
                .collect(),
            replaces: row.compaction.map(|compaction| compaction.replaces),
            created_at: row.created_at,
        }
    }
}

/// Creates a session without a request.
#[utoipa::path(
    post, path = "/v1/agents/{name}/sessions", tag = "sessions",
    params(("name" = String, Path, description = "Name of the agent", example = "hello"), Target),
    request_body = Option<CreateSessionRequest>,
    responses(
        (status = 201, body = CreateSessionResponse, description = "Created"),
        (status = 404, body = ErrorBody, description = "The agent is not deployed"),
    )
)]
pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(target): Query<Target>,
    JsonOrDefault(body): JsonOrDefault<CreateSessionRequest>,
) -> Result<(StatusCode, Json<CreateSessionResponse>), ApiError> {
    let route = shared
        .engine
        .router()
        .route(&target.ns, &name, &target.alias);
    route.map_err(EngineError::from)?;
    let session_id = SessionId::generate();
    let create = CreateSession {
        session_id: session_id.clone(),
        namespace: target.ns,
        agent: name,
        metadata: body.metadata,
    };
    shared.engine.store().write(create).await?;
    Ok((
        StatusCode::CREATED,
        Json(CreateSessionResponse { session_id }),
    ))
}

/// One session.
#[utoipa::path(
    get, path = "/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "The session", pattern = "^[A-Za-z0-9._:@-]{1,128}$")),
    responses(
        (status = 200, body = SessionView, description = "The session"),
        (status = 404, body = ErrorBody, description = "The session does not exist"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<SessionId>,
) -> Result<Json<SessionView>, ApiError> {
    find(&shared, &id).await.map(|row| Json(row.into()))
}

/// The history of a session, oldest first.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/messages", tag = "sessions",
    params(("id" = String, Path, description = "The session", pattern = "^[A-Za-z0-9._:@-]{1,128}$"), PageQuery),
    responses(
        (status = 200, body = ListPage<MessageView>, description = "A part of the history"),
        (status = 404, body = ErrorBody, description = "The session does not exist"),
    )
)]
pub(crate) async fn messages(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<SessionId>,
    List { page, .. }: List<NoFilter>,
) -> Result<Json<ListPage<MessageView>>, ApiError> {
    find(&shared, &id).await?;
    let Page { items, next } = shared
        .engine
        .store()
        .messages(&id, &page)
        .await?
        .map(Into::into);
    Ok(Json(ListPage { items, next }))
}

/// An output of a tool that was too large to be shown, whole, or a picture that was shown to the model.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/outputs/{handle}", tag = "sessions",
    params(
        ("id" = String, Path, description = "The session", pattern = "^[A-Za-z0-9._:@-]{1,128}$"),
        ("handle" = String, Path, description = "The handle of the output, as `tool_done` and the journal name it"),
    ),
    responses(
        (status = 200, body = String, content_type = "text/plain", description = "The text of the output"),
        (status = 404, body = ErrorBody, description = "The session has no such output"),
    )
)]
pub(crate) async fn output(
    State(shared): State<Arc<Shared>>,
    Path((id, handle)): Path<(SessionId, String)>,
) -> Result<Response, ApiError> {
    let output = shared.engine.spilled_output(&id, &handle).await?;
    let (output, media_type) = output.ok_or_else(|| ApiError::not_found("output", &handle))?;
    let mut response = Response::new(Body::from(output));
    let headers = response.headers_mut();
    // It may be anything; a browser must not take it for a page.
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(media_type.unwrap_or("text/plain; charset=utf-8")),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Deletes a session with its messages, requests and journals.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "The session", pattern = "^[A-Za-z0-9._:@-]{1,128}$")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, body = ErrorBody, description = "The session does not exist"),
        (status = 409, body = ErrorBody, description = "A request of it has not ended, or it was forked"),
    )
)]
pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<SessionId>,
) -> Result<StatusCode, ApiError> {
    shared
        .engine
        .store()
        .write(DeleteSession { session_id: id })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(shared: &Shared, id: &SessionId) -> Result<SessionRow, ApiError> {
    let row = shared.engine.store().session(id).await?;
    row.ok_or_else(|| ApiError::not_found("session", id))
}
