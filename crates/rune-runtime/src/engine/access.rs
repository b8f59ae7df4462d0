//! What the tools of a request can have the engine do.

use async_trait::async_trait;
use rune_store_runtime::{ErrorCode, Failure};
use rune_tools::{EngineAccess, NewEvent, ToolError, ToolErrorKind};

use super::child::SubAgents;
use super::publish::next_depth;
use super::{EngineError, Publication};

#[async_trait]
impl EngineAccess for SubAgents {
    async fn publish(&self, event: NewEvent) -> Result<u64, ToolError> {
        let root = self.engine.request(self.root()).await.map_err(refused)?;
        let publication = Publication {
            event_id: event.event_id,
            namespace: self.namespace.clone(),
            topic: event.topic,
            payload: event.payload,
            publisher: self.agent.clone(),
            request_id: Some(self.request_id),
            depth: next_depth(&root.metadata),
        };
        self.engine.publish(publication).await.map_err(refused)
    }
}

/// An error of the engine as a tool tells it.
fn refused(error: EngineError) -> ToolError {
    match error {
        EngineError::Store(error) => error.into(),
        error => failed(&Failure::new(error.code(), error.to_string())),
    }
}

/// A failure as a tool tells it.
fn failed(failure: &Failure) -> ToolError {
    let kind = match failure.code {
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
    };
    ToolError::new(kind, failure.message.clone())
}
