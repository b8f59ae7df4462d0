//! What callers of remote agents share.

use std::future::Future;

use rune_a2a::client::RemoteAgent;
use rune_store_runtime::ErrorCode;
use tokio::sync::watch;

use crate::ToolErrorKind;

/// Calls off the task of a message that is under way: `work` sends it, and `task` is told which it is.
pub async fn call_off(
    agent: &RemoteAgent,
    work: impl Future,
    mut task: watch::Receiver<Option<String>>,
) {
    tokio::select! {
        _ = work => {}
        // The sender lives as long as the work.
        _ = task.wait_for(Option::is_some) => {}
    }
    let id = task.borrow().clone();
    if let Some(id) = id
        && let Err(error) = agent.cancel(&id).await
    {
        // It may have ended by itself.
        tracing::debug!(task = id, %error, "a task of a remote agent was not called off");
    }
}

/// The kind of failure of a tool that has this code.
#[must_use]
pub const fn code_kind(code: ErrorCode) -> ToolErrorKind {
    match code {
        ErrorCode::InvalidInput => ToolErrorKind::InvalidInput,
        ErrorCode::Denied | ErrorCode::Unauthenticated => ToolErrorKind::Denied,
        ErrorCode::NotFound => ToolErrorKind::NotFound,
        ErrorCode::TooLarge => ToolErrorKind::OutputTooLarge,
        ErrorCode::Cancelled => ToolErrorKind::Cancelled,
        ErrorCode::Timeout => ToolErrorKind::Timeout,
        ErrorCode::Unavailable | ErrorCode::ModelUnavailable => ToolErrorKind::Unavailable,
        ErrorCode::Conflict | ErrorCode::LimitExceeded | ErrorCode::Internal => {
            ToolErrorKind::Failed
        }
    }
}
