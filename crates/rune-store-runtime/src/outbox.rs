//! The outbox: messages that agents send to people over channels, kept until an adapter takes them.

use serde::{Deserialize, Serialize};

use crate::{MessageId, RequestId, Timestamp};

/// Queues a message. Reply: unit. One that is there already stays as it is. Rejected with `conflict` where too many wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueMessage {
    /// The message.
    pub message_id: MessageId,
    /// Namespace of the agent.
    pub namespace: String,
    /// The agent that sends it.
    pub agent: String,
    /// The channel it goes over, 1 to 128 bytes.
    pub channel: String,
    /// Who or what room it is for, as the channel names it.
    pub recipient: String,
    /// What it says.
    pub text: String,
    /// The request that sends it.
    pub request_id: RequestId,
}

/// A message of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// The message.
    pub id: MessageId,
    /// Namespace of the agent.
    pub namespace: String,
    /// The agent that sends it.
    pub agent: String,
    /// The channel it goes over.
    pub channel: String,
    /// Who or what room it is for.
    pub recipient: String,
    /// What it says.
    pub text: String,
    /// The request that sends it.
    pub request_id: RequestId,
    /// When it was queued.
    pub created_at: Timestamp,
}

/// Which messages to list, oldest first. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboxFilter {
    /// Only of this namespace.
    pub namespace: Option<String>,
    /// Only over this channel.
    pub channel: Option<String>,
}
