//! `rune@channel-send`: sends a message to people over a channel.

use async_trait::async_trait;
use rune_store_runtime::{MessageId, QueueMessage};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::identity::repeatable_id;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    channel: String,
    to: String,
    text: String,
}

/// Queues a message; called again with the same key it is the same message.
pub(crate) struct ChannelSend;

#[async_trait]
impl BuiltinTool for ChannelSend {
    fn name(&self) -> &'static str {
        "channel-send"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let message_id = MessageId::from_bytes(repeatable_id(&context.idempotency_key, "message"));
        let queue = QueueMessage {
            message_id,
            namespace: context.scope.namespace.clone(),
            agent: context.scope.agent.clone(),
            channel: input.channel,
            recipient: input.to,
            text: input.text,
            request_id: context.request_id,
        };
        context.store.write(queue).await?;
        Ok(json!({ "message_id": message_id, "state": "queued" }))
    }
}
