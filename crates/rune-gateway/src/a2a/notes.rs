//! What is kept of a message beside its parts, which are the input of a request.

use rune_a2a::{Message, Role};
use rune_store_runtime::RequestRow;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::parts::parts_of_input;

/// The key of a request's notes under which it stands.
pub(crate) const NOTES: &str = "a2a";

/// What a message said beside its parts, kept with the request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Notes {
    message_id: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extensions: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reference_task_ids: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) accepted_output_modes: Vec<String>,
}

impl Notes {
    pub(crate) fn of(message: &Message, accepted_output_modes: &[String]) -> Self {
        Self {
            message_id: message.message_id.clone(),
            metadata: message.metadata.clone(),
            extensions: message.extensions.clone(),
            reference_task_ids: message.reference_task_ids.clone(),
            accepted_output_modes: accepted_output_modes.to_vec(),
        }
    }

    /// Those of a request; none where it was not made by a message.
    pub(crate) fn of_row(row: &RequestRow) -> Self {
        let notes = row.metadata.get(NOTES).cloned().unwrap_or_default();
        serde_json::from_value(notes).unwrap_or_default()
    }

    /// The message that made a request.
    pub(crate) fn message(self, row: &RequestRow, input: &Value) -> Message {
        let message_id = match self.message_id.is_empty() {
            true => format!("{}-input", row.id),
            false => self.message_id,
        };
        Message {
            metadata: self.metadata,
            extensions: self.extensions,
            reference_task_ids: self.reference_task_ids,
            ..Message::new(message_id, Role::User, parts_of_input(input))
        }
    }
}
