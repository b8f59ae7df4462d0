//! What filled the window of the models that a request asked.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, Path, TokenUsage};
use rune_store_runtime::{
    Compaction, Entry, EntryBody, ModelReply, PageRequest, PromptParts, Replaced, RequestFilter,
    RequestId, RequestRow, SessionId, SpilledOutput, Store, StoreError,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::gateway::Shared;

/// Entries read from the store at a time.
const JOURNAL_PAGE: u32 = 256;

/// What the model was shown in the calls of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ContextView {
    #[schema(value_type = String)]
    request_id: RequestId,
    /// The turns of the conversation, in order.
    calls: Vec<ModelCallView>,
    /// The earlier requests of the session whose messages the last call was shown, newest first.
    #[schema(value_type = Vec<String>)]
    earlier: Vec<RequestId>,
    /// How many older requests of the session it was not shown. Where `summary` of a call is not 0, a summary stands
    /// for the newest of them.
    left_out: u64,
    /// Where older messages were replaced by a summary, in order.
    compactions: Vec<CompactionView>,
    /// Outputs of tools that were too large to be shown whole.
    spilled: Vec<SpilledView>,
}

/// One call of a model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelCallView {
    /// The model turn, from 1.
    step: u32,
    provider: String,
    model: String,
    /// What filled the prompt, in tokens as estimated from its bytes.
    estimated: PromptView,
    /// What the provider counted.
    reported: TokenUsage,
}

/// The parts of a prompt.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PromptView {
    instructions: u64,
    /// The definitions of the tools.
    tools: u64,
    /// The summary that stands for older messages.
    summary: u64,
    /// The messages of earlier requests.
    earlier: u64,
    /// The messages of the request itself.
    own: u64,
    total: u64,
}

/// A summary that took the place of older messages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompactionView {
    /// The journal entry.
    seq: u64,
    /// The model turn that it made room for.
    step: u32,
    #[schema(value_type = Object)]
    replaces: Replaced,
    /// What the model is shown in their place.
    text: String,
    /// Tokens of the prompt before it, estimated.
    tokens_before: u64,
    /// Tokens of the prompt after it, estimated.
    tokens_after: u64,
}

/// An output that was too large to be shown.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SpilledView {
    /// The id of the call in the model's reply.
    call_id: String,
    /// The tool's name in the package.
    tool: String,
    /// By what it is read.
    handle: String,
    bytes: u64,
    /// Bytes that the model was shown.
    shown: u64,
}

impl ModelCallView {
    fn new(reply: ModelReply) -> Self {
        Self {
            step: reply.step,
            provider: reply.provider,
            model: reply.model,
            estimated: reply.prompt.into(),
            reported: reply.usage.into(),
        }
    }
}

impl From<PromptParts> for PromptView {
    fn from(parts: PromptParts) -> Self {
        Self {
            instructions: parts.instructions,
            tools: parts.tools,
            summary: parts.summary,
            earlier: parts.earlier,
            own: parts.own,
            total: parts.total(),
        }
    }
}

impl CompactionView {
    fn new(seq: u64, compaction: &Compaction) -> Self {
        Self {
            seq,
            step: compaction.step,
            replaces: compaction.replaces,
            text: compaction.text(),
            tokens_before: compaction.tokens_before,
            tokens_after: compaction.tokens_after,
        }
    }
}

/// What filled the window of each model call of a request: instructions, tools, the summary of older messages, earlier
/// requests, its own messages; and what was left out.
#[utoipa::path(
    get, path = "/v1/requests/{id}/context", tag = "requests",
    params(("id" = String, Path, description = "The request", pattern = "^req_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = ContextView, description = "The calls"),
        (status = 404, body = ErrorBody, description = "The request does not exist"),
    )
)]
pub(crate) async fn context(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<RequestId>,
) -> Result<Json<ContextView>, ApiError> {
    let row = shared.engine.request(id).await?;
    let store = shared.engine.store();
    let mut view = ContextView {
        request_id: id,
        calls: Vec::new(),
        earlier: Vec::new(),
        left_out: 0,
        compactions: Vec::new(),
        spilled: Vec::new(),
    };
    let mut shown = 0;
    let mut after = 0;
    loop {
        let entries = store.journal(id, after, JOURNAL_PAGE).await?;
        let Some(last) = entries.last() else { break };
        after = last.seq;
        for entry in entries {
            if let Some(reply) = entry.body.reply() {
                shown = reply.prompt.earlier_requests;
            }
            view.add(entry);
        }
    }
    let mut before = earlier(store, &row).await?;
    view.left_out = (before.len() as u64).saturating_sub(shown.into());
    before.truncate(usize::try_from(shown).unwrap_or(usize::MAX));
    view.earlier = before;
    Ok(Json(view))
}

impl ContextView {
    fn add(&mut self, entry: Entry) {
        match entry.body {
            EntryBody::ModelReply(reply) => self.calls.push(ModelCallView::new(reply)),
            EntryBody::ModelAsked(ask) => self.calls.extend(ask.reply.map(ModelCallView::new)),
            EntryBody::Compacted(compaction) => {
                let view = CompactionView::new(entry.seq, &compaction);
                self.compactions.push(view);
            }
            EntryBody::ToolResult(outcome) => {
                let shown = outcome.content.len() as u64;
                let view = |output: SpilledOutput| SpilledView {
                    call_id: outcome.call_id,
                    tool: outcome.tool,
                    handle: output.handle,
                    bytes: output.bytes,
                    shown,
                };
                self.spilled.extend(outcome.spilled.map(view));
            }
            _ => {}
        }
    }
}

/// The requests of the session before this one, newest first. Before a session that began with a fork stands what was
/// before the request that was forked.
async fn earlier(store: &Store, row: &RequestRow) -> Result<Vec<RequestId>, StoreError> {
    let mut earlier = Vec::new();
    let mut of = Some((row.id, row.session_id.clone()));
    while let Some((id, session)) = of {
        let oldest = before(store, id, session, &mut earlier).await?;
        of = origin(store, oldest).await?;
    }
    Ok(earlier)
}

/// Adds the requests of a session before this one, newest first, and answers the oldest.
async fn before(
    store: &Store,
    id: RequestId,
    session: SessionId,
    earlier: &mut Vec<RequestId>,
) -> Result<RequestId, StoreError> {
    let filter = RequestFilter {
        session_id: Some(session),
        ..RequestFilter::default()
    };
    let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
    let mut is_before = false;
    let mut oldest = id;
    loop {
        let found = store.requests(&filter, &page).await?;
        for other in found.items {
            if is_before {
                earlier.push(other.id);
                oldest = other.id;
            }
            is_before |= other.id == id;
        }
        page.cursor = found.next;
        if page.cursor.is_none() {
            return Ok(oldest);
        }
    }
}

/// The request that one was forked from, and its session.
async fn origin(
    store: &Store,
    id: RequestId,
) -> Result<Option<(RequestId, SessionId)>, StoreError> {
    let first = store.journal(id, 0, 1).await?.pop();
    let Some(EntryBody::Accepted {
        forked_from: Some(origin),
        ..
    }) = first.map(|entry| entry.body)
    else {
        return Ok(None);
    };
    let found = store.request(origin.request_id).await?;
    Ok(found.map(|row| (row.id, row.session_id)))
}
