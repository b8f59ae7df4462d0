//! `rune@event-publish`: tells the namespace that something happened.

use async_trait::async_trait;
use rune_store_runtime::EventId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::identity::repeatable_id;
use crate::{BuiltinTool, NewEvent, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    topic: String,
    #[serde(default)]
    payload: Value,
}

/// Publishes an event; called again with the same key it is the same event.
pub(crate) struct EventPublish;

#[async_trait]
impl BuiltinTool for EventPublish {
    fn name(&self) -> &'static str {
        "event-publish"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let event_id = EventId::from_bytes(repeatable_id(&context.idempotency_key, "event"));
        let event = NewEvent {
            event_id,
            topic: input.topic,
            payload: input.payload,
        };
        let fires = context.engine()?.publish(event).await?;
        Ok(json!({ "event_id": event_id, "requests": fires }))
    }
}
