//! What a call asks for, done by the engine.

use std::collections::BTreeMap;

use rune_a2a::{
    A2aError, Call, CancelTask, CardForm, ErrorKind, GetTask, Operation, ProtocolVersion,
    SendMessage, StreamEvent, Task,
};
use rune_http::Caller;
use rune_runtime::{Followed, Invocation, RequestEvents};
use rune_store_runtime::{
    ApprovalFilter, ApprovalId, ApprovalState, ErrorCode, PageRequest, RequestFilter, RequestRow,
    RequestStatus, SessionId,
};
use serde_json::Value;

use super::answer::failure;
use super::card::extended;
use super::find::{agent_says_text, catch_up, find, snapshot, view_of};
use super::list::list_tasks;
use super::notes::{NOTES, Notes};
use super::parts::input_of;
use super::question::answers;
use super::stream::{Envelope, TaskStream};
use super::target::A2aTarget;
use super::task::TaskView;
use super::webhooks;
use crate::gateway::Shared;
use crate::routes::approvals::{DecideRequest, decide_all};
use crate::routes::invoke::KeyHeader;
use crate::trace::Trace;

/// Who asks which agent, and how that is answered.
pub(crate) struct Asking<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) target: A2aTarget,
    pub(crate) caller: Caller,
    /// Where the gateway is, as the client sees it.
    pub(crate) base: String,
    pub(crate) key: KeyHeader,
    pub(crate) trace: Trace,
    pub(crate) envelope: Envelope,
}

/// What comes of a call.
pub(crate) enum Outcome {
    /// A value, as the version of the call has it.
    Value(Value),
    /// The events of a request, and how they are told.
    Stream(RequestEvents, Box<TaskStream>),
}

/// Does what a call asks for.
///
/// # Errors
/// As the protocol says for each operation.
pub(crate) async fn perform(asking: Asking<'_>, call: Call) -> Result<Outcome, A2aError> {
    let version = call.version;
    match call.operation {
        Operation::SendMessage(send) => say(asking, version, *send, false).await,
        Operation::SendStreamingMessage(send) => say(asking, version, *send, true).await,
        Operation::GetTask(GetTask { id, history_length }) => {
            let row = find(&asking, &id).await?;
            let view = snapshot(&asking.shared.engine, &asking.base, &row).await?;
            Ok(Outcome::Value(view.task(history_length).encode(version)))
        }
        Operation::ListTasks(list) => list_tasks(&asking, list).await.map(Outcome::Value),
        Operation::CancelTask(CancelTask { id, .. }) => {
            let task = cancel(&asking, &id).await?;
            Ok(Outcome::Value(task.encode(version)))
        }
        Operation::SubscribeToTask(id) => {
            let row = find(&asking, &id).await?;
            if row.status.is_terminal() {
                let message = format!("task `{id}` has ended; GetTask shows what came of it");
                let error = A2aError::new(ErrorKind::UnsupportedOperation, message);
                return Err(error.about("taskId", id));
            }
            follow(asking, version, &row, None, true).await
        }
        operation @ (Operation::CreatePushConfig(_)
        | Operation::GetPushConfig(_)
        | Operation::ListPushConfigs(_)
        | Operation::DeletePushConfig(_)) => webhooks::perform(&asking, version, operation)
            .await
            .map(Outcome::Value),
        Operation::GetExtendedAgentCard => {
            let card = extended(&asking.target, asking.shared, &asking.base).await?;
            let form = match version {
                ProtocolVersion::V1 => asking.shared.a2a.form(),
                ProtocolVersion::V03 => CardForm::Hybrid,
            };
            Ok(Outcome::Value(card.encode(form)))
        }
    }
}

async fn say(
    asking: Asking<'_>,
    version: ProtocolVersion,
    send: SendMessage,
    streams: bool,
) -> Result<Outcome, A2aError> {
    if let Some(push) = &send.push {
        // Before anything is begun.
        webhooks::pushes(&asking)?.check(push)?;
    }
    match send.message.task_id.clone() {
        Some(task) => go_on(asking, version, send, &task, streams).await,
        None => begin(asking, version, send, streams).await,
    }
}

/// A message begins a task.
async fn begin(
    mut asking: Asking<'_>,
    version: ProtocolVersion,
    send: SendMessage,
    streams: bool,
) -> Result<Outcome, A2aError> {
    let engine = &asking.shared.engine;
    let session: Option<Result<SessionId, _>> =
        send.message.context_id.as_ref().map(|id| id.parse());
    let session_id = session.transpose();
    let session_id = session_id.map_err(|error: rune_store_runtime::IdError| {
        A2aError::invalid("message.contextId", error.to_string())
    })?;
    if let Some(session) = &session_id {
        check_context(&asking, session).await?;
    }
    let agent = asking.target.agent(engine).await;
    let (_, agent) = agent.map_err(|error| failure(&error))?;
    let input = input_of(&send.message.parts, &agent)?;
    let origin = asking.trace.clone().origin(send.message.depth()?);
    let notes = Notes::of(&send.message, &send.accepted_output_modes);
    let notes = serde_json::to_value(notes).map_err(|error| internal(&error))?;
    let target = &asking.target;
    // Apart from the keys of the other APIs, whose requests have other bodies.
    let scope = format!(
        "a2a\n{}\n{}/{}:{}",
        asking.caller.id, target.namespace, target.agent, target.alias
    );
    let body = send.message.encode(ProtocolVersion::V1);
    let key = std::mem::replace(&mut asking.key, KeyHeader::of(None));
    let idempotency = key.with(&body, &scope);
    let mut metadata = send.metadata.clone();
    metadata.remove(NOTES);
    let kept = metadata.clone().into_iter();
    let mut kept: BTreeMap<_, _> = kept.chain([(NOTES.to_owned(), notes)]).collect();
    origin.keep(&mut kept);
    let invocation = Invocation {
        namespace: target.namespace.clone(),
        agent: target.agent.clone(),
        alias: target.alias.clone(),
        input,
        session_id,
        metadata: kept,
        caller: asking.caller.id.as_ref().to_owned(),
        idempotency: idempotency.map_err(|error| failure(&error))?,
        follows: None,
    };
    let invoked = engine.invoke(invocation).await;
    let invoked = invoked.map_err(|error| failure(&error.into()))?;
    if let Some(push) = send.push {
        webhooks::add(&asking, version, invoked.request_id, push).await?;
    }
    let mut view = TaskView::of_message(
        (invoked.request_id, invoked.session_id),
        send.message,
        (metadata, send.accepted_output_modes),
        agent.output_schema().is_none(),
        asking.base,
    );
    let mut events = invoked.events;
    let wanted = send.history_length;
    if streams {
        let stream = TaskStream::new(view, 1, wanted, version, asking.envelope);
        return Ok(Outcome::Stream(events, Box::new(stream)));
    }
    if send.return_immediately {
        catch_up(&mut view, &mut events, 1).await?;
    } else {
        view = end_of(view, events).await?;
    }
    let task = StreamEvent::Task(view.task(wanted));
    Ok(Outcome::Value(task.encode(version)))
}

/// A context that exists is one that the caller has begun; what others say to each other nobody learns or adds to.
async fn check_context(asking: &Asking<'_>, session: &SessionId) -> Result<(), A2aError> {
    let own = asking.caller.id.as_ref().to_owned();
    let is_its = has_requests(asking, session, Some(own)).await?;
    if is_its || !has_requests(asking, session, None).await? {
        return Ok(());
    }
    let message = format!("context `{session}` does not exist");
    let error = A2aError::new(ErrorKind::Other(ErrorCode::NotFound), message);
    Err(error.about("contextId", session.to_string()))
}

/// Whether a session has a request, of this caller or of any.
async fn has_requests(
    asking: &Asking<'_>,
    session: &SessionId,
    caller: Option<String>,
) -> Result<bool, A2aError> {
    let filter = RequestFilter {
        session_id: Some(session.clone()),
        caller,
        ..RequestFilter::default()
    };
    let store = asking.shared.engine.store();
    let found = store.requests(&filter, &PageRequest::first(1)).await;
    let found = found.map_err(|error| failure(&error.into()))?;
    Ok(!found.items.is_empty())
}

/// A message decides what a task waits for.
async fn go_on(
    asking: Asking<'_>,
    version: ProtocolVersion,
    send: SendMessage,
    task: &str,
    streams: bool,
) -> Result<Outcome, A2aError> {
    let row = find(&asking, task).await?;
    let context = send.message.context_id.as_deref();
    if context.is_some_and(|context| context != row.session_id.as_str()) {
        let message = format!("is not that of task `{task}`");
        return Err(A2aError::invalid("message.contextId", message));
    }
    if row.status != RequestStatus::InputRequired {
        return Err(not_waiting(&row, version));
    }
    let decisions = decisions(&asking, &row, &send).await?;
    if let Some(push) = send.push.clone() {
        webhooks::add(&asking, version, row.id, push).await?;
    }
    let decided = decide_all(asking.shared, &asking.caller, row.id, decisions).await;
    decided.map_err(|error| failure(&error))?;
    if streams {
        return follow(asking, version, &row, send.history_length, false).await;
    }
    let task = if send.return_immediately {
        let row = find(&asking, task).await?;
        snapshot(&asking.shared.engine, &asking.base, &row).await?
    } else {
        let (view, events) = view_of(&asking.shared.engine, &asking.base, &row).await?;
        end_of(view, events).await?
    };
    let task = task.task(send.history_length);
    Ok(Outcome::Value(StreamEvent::Task(task).encode(version)))
}

fn not_waiting(row: &RequestRow, version: ProtocolVersion) -> A2aError {
    let task = row.id.to_string();
    let (kind, message) = match (row.status.is_terminal(), version) {
        (true, ProtocolVersion::V1) => (
            ErrorKind::UnsupportedOperation,
            format!("task `{task}` has ended; a message in its context begins another"),
        ),
        // As the servers of 0.3 have it.
        (true, ProtocolVersion::V03) => (
            ErrorKind::InvalidParams,
            format!("task `{task}` has ended; a message in its context begins another"),
        ),
        (false, _) => (
            ErrorKind::UnsupportedOperation,
            format!("task `{task}` does not wait for a message"),
        ),
    };
    A2aError::new(kind, message).about("taskId", task)
}

/// The decisions that a message makes, each about one approval that waits.
async fn decisions(
    asking: &Asking<'_>,
    row: &RequestRow,
    send: &SendMessage,
) -> Result<Vec<(ApprovalId, DecideRequest)>, A2aError> {
    let filter = ApprovalFilter {
        request_id: Some(row.id),
        state: Some(ApprovalState::Waiting),
        ..ApprovalFilter::default()
    };
    let page = PageRequest::first(PageRequest::MAX_LIMIT);
    let waiting = asking.shared.engine.store().approvals(&filter, &page).await;
    let waiting = waiting.map_err(|error| failure(&error.into()))?.items;
    let mut left: Vec<ApprovalId> = waiting.iter().map(|row| row.question.approval_id).collect();
    let mut decisions = Vec::new();
    let answers = answers(&send.message)?;
    let (named, general): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|answer| answer.approval.is_some());
    for answer in named {
        let place = left.iter().position(|id| Some(*id) == answer.approval);
        let Some(place) = place else {
            let message = "an `approvalId` is none that the task waits for";
            return Err(A2aError::invalid("message.parts", message));
        };
        let decision = DecideRequest::once(answer.approve, answer.note);
        decisions.push((left.remove(place), decision));
    }
    if let Some(answer) = general.into_iter().next() {
        let rest = left.into_iter().map(|id| {
            let note = answer.note.clone();
            (id, DecideRequest::once(answer.approve, note))
        });
        decisions.extend(rest);
    }
    Ok(decisions)
}

/// The stream of a task that exists, beginning with the task as it is. Where that waits, the stream ends there or stays.
async fn follow(
    asking: Asking<'_>,
    version: ProtocolVersion,
    row: &RequestRow,
    history_length: Option<u32>,
    stays: bool,
) -> Result<Outcome, A2aError> {
    let (view, events) = view_of(&asking.shared.engine, &asking.base, row).await?;
    // What it waits for is known behind its last entry.
    let waits = row.status == RequestStatus::InputRequired;
    let known = row.last_seq + u64::from(waits);
    let stream = TaskStream::new(view, known, history_length, version, asking.envelope);
    let stream = stream.staying(stays && waits);
    Ok(Outcome::Stream(events, Box::new(stream)))
}

/// The task when it has ended or waits for the client; as it is where the daemon ends first.
async fn end_of(mut view: TaskView, mut events: RequestEvents) -> Result<TaskView, A2aError> {
    loop {
        match events.step().await {
            Ok(Followed::Event(event)) => {
                view.apply(&event);
                if event.event.is_last() {
                    return Ok(view);
                }
            }
            Ok(Followed::Parked) => {
                view.park();
                return Ok(view);
            }
            Ok(Followed::End) => return Ok(view),
            Err(error) => return Err(failure(&error.into())),
        }
    }
}

async fn cancel(asking: &Asking<'_>, id: &str) -> Result<Task, A2aError> {
    let row = find(asking, id).await?;
    let not_cancelable = || {
        let message = format!("task `{id}` has ended and cannot be cancelled");
        A2aError::new(ErrorKind::TaskNotCancelable, message).about("taskId", id)
    };
    if row.status.is_terminal() {
        return Err(not_cancelable());
    }
    let engine = &asking.shared.engine;
    let row = engine.cancel(row.id, "cancelled by the A2A client").await;
    let row = row.map_err(|error| failure(&error.into()))?;
    if row.status != RequestStatus::Cancelled {
        return Err(not_cancelable());
    }
    let view = match snapshot(engine, &asking.base, &row).await {
        Ok(view) => view,
        // Nothing is kept of it.
        Err(error) if error.kind() == ErrorKind::TaskNotFound => {
            let is_text = agent_says_text(engine, &row);
            let mut view = TaskView::of_row(&row, None, is_text, asking.base.clone());
            view.settle(&row);
            view
        }
        Err(error) => return Err(error),
    };
    Ok(view.task(None))
}

/// A fault of Rune: the detail is logged, the client learns nothing of it.
pub(super) fn internal(error: &dyn std::error::Error) -> A2aError {
    failure(&rune_http::ApiError::internal(error.to_string()))
}
