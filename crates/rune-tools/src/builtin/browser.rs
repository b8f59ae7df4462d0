//! What the tools of the browser share.

use crate::{ToolContext, ToolError};

/// What a use of the browser comes to, unless the call is cancelled before.
pub(super) async fn until_cancelled<T>(
    context: &ToolContext,
    work: impl Future<Output = Result<T, ToolError>>,
) -> Result<T, ToolError> {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(ToolError::cancelled()),
        done = work => done,
    }
}
