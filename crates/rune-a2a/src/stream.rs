//! What a stream, a webhook, and the answer to a message tell.

use serde_json::{Map, Value, json};

use crate::limits::MAX_ID_BYTES;
use crate::message::put_map;
use crate::node::Node;
use crate::task::context_of;
use crate::{A2aError, Artifact, Message, ProtocolVersion, Task, TaskStatus};

/// A task is in another state.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusUpdate {
    /// The task.
    pub task_id: String,
    /// Its conversation.
    pub context_id: String,
    /// Where it is now.
    pub status: TaskStatus,
    /// Whatever else is said of it.
    pub metadata: Map<String, Value>,
}

/// A task made something, or more of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ArtifactUpdate {
    /// The task.
    pub task_id: String,
    /// Its conversation.
    pub context_id: String,
    /// What it made.
    pub artifact: Artifact,
    /// Whether the parts go behind those that the artifact has; else they take their place.
    pub append: bool,
    /// Whether no more of it comes.
    pub last_chunk: bool,
    /// Whatever else is said of it.
    pub metadata: Map<String, Value>,
}

/// One thing that is told: `StreamResponse` in 1.0.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamEvent {
    /// A whole task.
    Task(Task),
    /// An answer without a task.
    Message(Message),
    /// A task is in another state.
    Status(StatusUpdate),
    /// A task made something.
    Artifact(ArtifactUpdate),
}

impl StreamEvent {
    /// Its form on the wire. In 0.3 the status that ends a stream says so with `final`.
    #[must_use]
    pub fn encode(&self, version: ProtocolVersion) -> Value {
        let (key, value) = match self {
            Self::Task(task) => ("task", task.encode(version)),
            Self::Message(message) => ("message", message.encode(version)),
            Self::Status(update) => ("statusUpdate", update.encode(version)),
            Self::Artifact(update) => ("artifactUpdate", update.encode(version)),
        };
        match version {
            ProtocolVersion::V1 => json!({key: value}),
            ProtocolVersion::V03 => value,
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidParams`](crate::ErrorKind::InvalidParams), naming the field.
    pub fn decode(version: ProtocolVersion, value: &Value) -> Result<Self, A2aError> {
        let node = Node::root(value);
        let (key, inner) = match version {
            ProtocolVersion::V1 => {
                let keys = ["task", "message", "statusUpdate", "artifactUpdate"];
                let mut found = None;
                for key in keys {
                    if let Some(inner) = node.get(key)? {
                        found = Some((key, inner));
                        break;
                    }
                }
                let none = || node.wrong(format!("has one of {}", keys.join(", ")));
                found.ok_or_else(none)?
            }
            ProtocolVersion::V03 => {
                let kind = node.need("kind")?;
                let key = match kind.text(MAX_ID_BYTES)? {
                    "task" => "task",
                    "message" => "message",
                    "status-update" => "statusUpdate",
                    "artifact-update" => "artifactUpdate",
                    _ => return Err(kind.wrong("is none of the protocol")),
                };
                (key, node)
            }
        };
        Ok(match key {
            "task" => Self::Task(Task::read(version, &inner)?),
            "message" => Self::Message(Message::read(version, &inner)?),
            "statusUpdate" => Self::Status(StatusUpdate::read(version, &inner)?),
            _ => Self::Artifact(ArtifactUpdate::read(version, &inner)?),
        })
    }
}

impl StatusUpdate {
    fn encode(&self, version: ProtocolVersion) -> Value {
        let about = (
            self.task_id.as_str(),
            self.context_id.as_str(),
            &self.metadata,
        );
        let mut out = update(version, "status-update", about);
        out.insert("status".to_owned(), self.status.encode(version));
        if version == ProtocolVersion::V03 {
            let state = self.status.state;
            let last = state.is_terminal() || state.is_interrupted();
            out.insert("final".to_owned(), Value::Bool(last));
        }
        Value::Object(out)
    }

    fn read(version: ProtocolVersion, node: &Node<'_>) -> Result<Self, A2aError> {
        let (task_id, context_id, metadata) = read_update(node)?;
        Ok(Self {
            task_id,
            context_id,
            status: TaskStatus::read(version, &node.need("status")?)?,
            metadata,
        })
    }
}

impl ArtifactUpdate {
    fn encode(&self, version: ProtocolVersion) -> Value {
        let about = (
            self.task_id.as_str(),
            self.context_id.as_str(),
            &self.metadata,
        );
        let mut out = update(version, "artifact-update", about);
        out.insert("artifact".to_owned(), self.artifact.encode(version));
        for (key, flag) in [("append", self.append), ("lastChunk", self.last_chunk)] {
            if flag {
                out.insert(key.to_owned(), Value::Bool(true));
            }
        }
        Value::Object(out)
    }

    fn read(version: ProtocolVersion, node: &Node<'_>) -> Result<Self, A2aError> {
        let (task_id, context_id, metadata) = read_update(node)?;
        Ok(Self {
            task_id,
            context_id,
            artifact: Artifact::read(version, &node.need("artifact")?)?,
            append: node.get_bool("append")?.unwrap_or_default(),
            last_chunk: node.get_bool("lastChunk")?.unwrap_or_default(),
            metadata,
        })
    }
}

/// What both kinds of updates have: the task, its conversation, and whatever else is said.
fn update(
    version: ProtocolVersion,
    kind: &str,
    (task_id, context_id, metadata): (&str, &str, &Map<String, Value>),
) -> Map<String, Value> {
    let mut out = Map::new();
    if version == ProtocolVersion::V03 {
        out.insert("kind".to_owned(), json!(kind));
    }
    out.insert("taskId".to_owned(), json!(task_id));
    out.insert("contextId".to_owned(), json!(context_id));
    put_map(&mut out, "metadata", metadata);
    out
}

fn read_update(node: &Node<'_>) -> Result<(String, String, Map<String, Value>), A2aError> {
    Ok((
        node.need_id("taskId", MAX_ID_BYTES)?,
        context_of(node)?,
        node.get_map("metadata")?,
    ))
}
