//! File work off the reactor.

use crate::ToolError;

/// Runs blocking work on the blocking pool. Dropping the future does not stop the
/// work; what runs here is bounded by size.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(ToolError::failed(format!(
                "the tool broke off in the middle: {error}"
            )))
        })
}
