//! Approvals: what waits for a person, and deciding it.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, Caller, ErrorBody, Json, List, ListPage, PageQuery, Path};
use rune_runtime::Engine;
use rune_store_runtime::{
    ApprovalAnswer, ApprovalDecision, ApprovalFilter, ApprovalId, ApprovalRow, ApprovalState,
    DecideApproval, EntryBody, ErrorCode, Remember, RequestId, SessionId, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::gateway::Shared;

/// Longest note in bytes.
const MAX_NOTE_BYTES: usize = 4096;
/// Entries of a journal that are read at a time.
const JOURNAL_PAGE: u32 = 256;

/// A question about one tool call.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApprovalView {
    #[schema(value_type = String)]
    approval_id: ApprovalId,
    #[schema(value_type = String)]
    request_id: RequestId,
    #[schema(value_type = String)]
    session_id: SessionId,
    namespace: String,
    agent: String,
    /// `waiting`, `approved`, `denied`, or `withdrawn` where the request ended first.
    state: &'static str,
    /// The tool's name in the package.
    tool: String,
    input: Value,
    /// Why a person is asked.
    reason: String,
    /// The policies that ask.
    policies: Vec<String>,
    /// When the default counts.
    #[schema(value_type = Option<String>, format = DateTime)]
    deadline: Option<Timestamp>,
    /// What counts at the deadline: `approve` or `deny`.
    default: &'static str,
    #[schema(value_type = String, format = DateTime)]
    asked_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    decided_at: Option<Timestamp>,
    /// Who decided: a caller, or `deadline`.
    decided_by: Option<String>,
    note: Option<String>,
}

impl From<ApprovalRow> for ApprovalView {
    fn from(row: ApprovalRow) -> Self {
        let question = row.question;
        let (decided_by, note) = row
            .answer
            .map_or((None, None), |answer| (Some(answer.by), answer.note));
        Self {
            approval_id: question.approval_id,
            request_id: row.request_id,
            session_id: row.session_id,
            namespace: row.namespace,
            agent: row.agent,
            state: row.state.as_str(),
            tool: question.tool,
            input: question.input,
            reason: question.reason,
            policies: question.policies,
            deadline: question.deadline,
            default: question.default.as_str(),
            asked_at: row.asked_at,
            decided_at: row.decided_at,
            decided_by,
            note,
        }
    }
}

/// Which approvals.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only of agents in this namespace.
    ns: Option<String>,
    /// Only of this agent.
    agent: Option<String>,
    /// Only of this request.
    #[param(value_type = Option<String>, pattern = "^req_[0-9a-f]{32}$")]
    request: Option<RequestId>,
    /// `waiting` (the default), `approved`, `denied`, `withdrawn` or `all`.
    state: Option<String>,
}

/// Approvals, oldest first; those that wait where no state is named.
#[utoipa::path(
    get, path = "/v1/approvals", tag = "approvals", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<ApprovalView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List { filter, page }: List<ListQuery>,
) -> Result<Json<ListPage<ApprovalView>>, ApiError> {
    let filter = ApprovalFilter {
        namespace: filter.ns,
        agent: filter.agent,
        request_id: filter.request,
        state: state(filter.state.as_deref())?,
        due_by: None,
    };
    let found = shared.engine.store().approvals(&filter, &page).await?;
    let found = found.map(ApprovalView::from);
    Ok(Json(found.into()))
}

fn state(word: Option<&str>) -> Result<Option<ApprovalState>, ApiError> {
    match word {
        None => Ok(Some(ApprovalState::Waiting)),
        Some("all") => Ok(None),
        Some(word) => match ApprovalState::parse(word) {
            Some(state) => Ok(Some(state)),
            None => {
                let known = ApprovalState::ALL.map(ApprovalState::as_str).join(", ");
                Err(ApiError::invalid(format!(
                    "`state` is one of {known} and all"
                )))
            }
        },
    }
}

/// What a person says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecideRequest {
    /// `approve` or `deny`.
    #[schema(value_type = String)]
    decision: ApprovalDecision,
    /// `session` or `agent`: later calls that the same policies ask about are decided the same way.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    remember: Option<Remember>,
    /// For the record; the model is told why a call was denied.
    #[serde(default)]
    note: Option<String>,
}

impl DecideRequest {
    /// Yes or no, this once.
    pub(crate) fn once(approve: bool, note: Option<String>) -> Self {
        Self {
            decision: match approve {
                true => ApprovalDecision::Approve,
                false => ApprovalDecision::Deny,
            },
            remember: None,
            note,
        }
    }
}

/// Decides an approval, once; saying again what was decided changes nothing. The request goes on when none of its approvals
/// waits any more.
#[utoipa::path(
    post, path = "/v1/requests/{id}/approvals/{approval_id}", tag = "approvals",
    params(
        ("id" = String, Path, description = "The request", pattern = "^req_[0-9a-f]{32}$"),
        ("approval_id" = String, Path, description = "The approval", pattern = "^apr_[0-9a-f]{32}$"),
    ),
    request_body(content = DecideRequest, example = json!({"decision": "approve", "note": "go on"})),
    responses(
        (status = 200, body = ApprovalView, description = "The approval as it is now"),
        (status = 409, body = ErrorBody, description = "It was decided otherwise before, or its request has ended"),
        (status = 404, body = ErrorBody, description = "The request has no such approval"),
    )
)]
pub(crate) async fn decide(
    State(shared): State<Arc<Shared>>,
    Path((id, approval_id)): Path<(RequestId, ApprovalId)>,
    caller: Caller,
    Json(body): Json<DecideRequest>,
) -> Result<Json<ApprovalView>, ApiError> {
    let (row, decision) = checked(&shared, id, approval_id, body, &caller).await?;
    let row = settle(&shared.engine, row, decision).await?;
    Ok(Json(row.into()))
}

/// The question, where it is one of the request, and the decision about it.
async fn checked(
    shared: &Shared,
    id: RequestId,
    approval_id: ApprovalId,
    body: DecideRequest,
    caller: &Caller,
) -> Result<(ApprovalRow, DecideApproval), ApiError> {
    if body
        .note
        .as_ref()
        .is_some_and(|note| note.len() > MAX_NOTE_BYTES)
    {
        return Err(ApiError::invalid(format!(
            "`note` may have {MAX_NOTE_BYTES} bytes"
        )));
    }
    let known = shared.engine.store().approval(approval_id).await?;
    let Some(row) = known.filter(|row| row.request_id == id) else {
        let message = format!("request `{id}` has no approval `{approval_id}`");
        return Err(ApiError::new(ErrorCode::NotFound, message));
    };
    let decision = DecideApproval {
        approval_id,
        decision: body.decision,
        by: caller.id.as_ref().to_owned(),
        remember: body.remember,
        note: body.note,
    };
    Ok((row, decision))
}

/// Whether a question was answered as it would be by this.
fn is_said(row: &ApprovalRow, decision: &DecideApproval) -> bool {
    let remembered = |answer: &ApprovalAnswer| match decision.remember {
        None => true,
        scope => answer.remember == scope,
    };
    row.answer
        .as_ref()
        .is_some_and(|answer| answer.decision == decision.decision && remembered(answer))
}

/// That a question was answered otherwise, or not at all.
fn decided_before(row: &ApprovalRow) -> ApiError {
    let (approval, state) = (row.question.approval_id, row.state.as_str());
    let message = format!("approval `{approval}` is {state} already");
    ApiError::new(ErrorCode::Conflict, message).of_request(row.request_id)
}

/// Answers a question, once. Saying again what was decided is no error, so that a client can repeat its call.
async fn settle(
    engine: &Engine,
    row: ApprovalRow,
    decision: DecideApproval,
) -> Result<ApprovalRow, ApiError> {
    if row.state != ApprovalState::Waiting {
        return match is_said(&row, &decision) {
            true => Ok(row),
            false => Err(decided_before(&row)),
        };
    }
    let error = match engine.decide(decision.clone()).await {
        Ok(row) => return Ok(row),
        Err(error) => error,
    };
    // Somebody may have said the same meanwhile.
    let now = engine.store().approval(decision.approval_id).await?;
    now.filter(|now| is_said(now, &decision))
        .ok_or_else(|| ApiError::from(error).of_request(row.request_id))
}

/// [`settle`] for several questions of one request. Answers the last entry of the journal that whoever decides knows:
/// the one before the decisions, also where they were made before.
///
/// Where one of them was decided the other way, or is answered twice, nothing is decided.
pub(crate) async fn decide_all(
    shared: &Shared,
    caller: &Caller,
    request: RequestId,
    answers: Vec<(ApprovalId, DecideRequest)>,
) -> Result<u64, ApiError> {
    let engine = &shared.engine;
    let mut known = BTreeSet::new();
    let mut waiting = Vec::new();
    for (approval, answer) in answers {
        if !known.insert(approval) {
            let message = format!("approval `{approval}` is answered twice");
            return Err(ApiError::invalid(message).of_request(request));
        }
        let (row, decision) = checked(shared, request, approval, answer, caller).await?;
        if row.state == ApprovalState::Waiting {
            waiting.push((row, decision));
        } else if !is_said(&row, &decision) {
            return Err(decided_before(&row));
        }
    }
    if waiting.is_empty() {
        return before(engine, request, &known).await;
    }
    let told = engine.request(request).await?.last_seq;
    for (row, decision) in waiting {
        settle(engine, row, decision).await?;
    }
    Ok(told)
}

/// The entry before the last one of these decisions.
async fn before(
    engine: &Engine,
    request: RequestId,
    decided: &BTreeSet<ApprovalId>,
) -> Result<u64, ApiError> {
    let mut last = 0;
    let mut read = 0;
    loop {
        let entries = engine.store().journal(request, read, JOURNAL_PAGE).await?;
        let Some(newest) = entries.last() else {
            return Ok(last);
        };
        read = newest.seq;
        for entry in &entries {
            match &entry.body {
                EntryBody::ApprovalGiven(answer) if decided.contains(&answer.approval_id) => {
                    last = entry.seq - 1;
                }
                _ => {}
            }
        }
    }
}
