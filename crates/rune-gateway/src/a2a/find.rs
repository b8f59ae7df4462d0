//! Tasks that exist: requests of an agent, as their caller may see them.

use rune_a2a::A2aError;
use rune_runtime::{Engine, EngineError, Followed, RequestEvents};
use rune_store_runtime::{EntryBody, RequestId, RequestRow, RequestStatus};
use serde_json::Value;

use super::answer::failure;
use super::operations::Asking;
use super::task::TaskView;

/// The request of a task, where the agent has it and the caller made it.
///
/// # Errors
/// `TaskNotFound`; whether there is one of somebody else nobody learns.
pub(crate) async fn find(asking: &Asking<'_>, id: &str) -> Result<RequestRow, A2aError> {
    let not_found = || A2aError::task_not_found(id);
    let request_id: RequestId = id.parse().map_err(|_| not_found())?;
    let row = match asking.shared.engine.request(request_id).await {
        Ok(row) => row,
        Err(EngineError::NotFound(_)) => return Err(not_found()),
        Err(error) => return Err(failure(&error.into())),
    };
    let target = &asking.target;
    let is_its = row.namespace == target.namespace
        && row.agent == target.agent
        && row.caller == *asking.caller.id;
    is_its.then_some(row).ok_or_else(not_found)
}

/// What is known of a task before its first event, and its events.
pub(crate) async fn view_of(
    engine: &Engine,
    base: &str,
    row: &RequestRow,
) -> Result<(TaskView, RequestEvents), A2aError> {
    let input = input(engine, row.id).await?;
    let is_text = agent_says_text(engine, row);
    let view = TaskView::of_row(row, input.as_ref(), is_text, base.to_owned());
    match engine.events(row.id, 0).await {
        Ok(events) => Ok((view, events)),
        Err(EngineError::NotFound(_)) => Err(A2aError::task_not_found(&row.id.to_string())),
        Err(error) => Err(failure(&error.into())),
    }
}

/// The task as its row says it is.
pub(crate) async fn snapshot(
    engine: &Engine,
    base: &str,
    row: &RequestRow,
) -> Result<TaskView, A2aError> {
    let (mut view, events) = view_of(engine, base, row).await?;
    let mut events = engine.stored_events(row).unwrap_or(events);
    catch_up(&mut view, &mut events, row.last_seq).await?;
    if row.status == RequestStatus::Accepted && engine.is_at_work(row.id) {
        view.works();
    }
    view.settle(row);
    Ok(view)
}

/// Takes in every entry up to one that is committed, so this does not wait.
pub(crate) async fn catch_up(
    view: &mut TaskView,
    events: &mut RequestEvents,
    until: u64,
) -> Result<(), A2aError> {
    while view.at() < until {
        match events.step().await {
            Ok(Followed::Event(event)) => drop(view.apply(&event)),
            Ok(Followed::Parked | Followed::End) => break,
            Err(error) => return Err(failure(&error.into())),
        }
    }
    Ok(())
}

/// What the request was asked; nothing where it is not stored.
async fn input(engine: &Engine, id: RequestId) -> Result<Option<Value>, A2aError> {
    let first = engine.store().journal(id, 0, 1).await;
    let first = first.map_err(|error| failure(&error.into()))?;
    Ok(first.into_iter().find_map(|entry| match entry.body {
        EntryBody::Accepted { input, .. } => Some(input),
        _ => None,
    }))
}

/// Whether what the agent says is its answer; else its answer is data.
pub(crate) fn agent_says_text(engine: &Engine, row: &RequestRow) -> bool {
    let agent = engine.router().agent(row.deployment_id);
    agent.is_none_or(|agent| agent.output_schema().is_none())
}
