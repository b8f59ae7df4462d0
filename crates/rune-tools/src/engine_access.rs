//! What a tool can have the engine do that runs it.

use async_trait::async_trait;
use rune_store_runtime::EventId;
use serde_json::Value;

use crate::ToolError;

/// The engine, as the tools of one running request see it: whatever is done is done in the name of that request and under
/// the rules that hold for it.
#[async_trait]
pub trait EngineAccess: Send + Sync {
    /// Publishes an event; answers how many requests it makes. An event that is there already is not published again.
    ///
    /// # Errors
    /// A refusal for the model.
    async fn publish(&self, event: NewEvent) -> Result<u64, ToolError>;
}

/// An event to publish in the namespace of the agent.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The event.
    pub event_id: EventId,
    /// What it is about.
    pub topic: String,
    /// What is to be known of it.
    pub payload: Value,
}
