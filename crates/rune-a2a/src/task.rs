//! Tasks: what an agent does for a message, and what comes of it.

use rune_store_runtime::Timestamp;
use serde_json::{Map, Value, json};

use crate::limits::{MAX_ID_BYTES, MAX_NAME_BYTES, MAX_REFERENCES, MAX_URL_BYTES};
use crate::message::{encode_parts, put_map, put_text, put_texts, read_parts};
use crate::node::Node;
use crate::{A2aError, Message, Part, ProtocolVersion};

/// The longest description of an artifact that is read, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 64 << 10;
/// The most artifacts or messages of a task that are read.
const MAX_ITEMS: usize = 10_000;

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// Taken.
    Submitted,
    /// The agent is at it.
    Working,
    /// Done.
    Completed,
    /// It did not work.
    Failed,
    /// The client called it off.
    Canceled,
    /// It waits for the client to say something.
    InputRequired,
    /// The agent does not do it.
    Rejected,
    /// It waits for credentials.
    AuthRequired,
}

impl TaskState {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::Submitted,
        Self::Working,
        Self::Completed,
        Self::Failed,
        Self::Canceled,
        Self::InputRequired,
        Self::Rejected,
        Self::AuthRequired,
    ];

    /// Whether nothing follows.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Canceled | Self::Rejected
        )
    }

    /// Whether it goes on only when the client does something.
    #[must_use]
    pub const fn is_interrupted(self) -> bool {
        matches!(self, Self::InputRequired | Self::AuthRequired)
    }

    /// The word on the wire.
    #[must_use]
    pub const fn word(self, version: ProtocolVersion) -> &'static str {
        match (self, version) {
            (Self::Submitted, ProtocolVersion::V1) => "TASK_STATE_SUBMITTED",
            (Self::Working, ProtocolVersion::V1) => "TASK_STATE_WORKING",
            (Self::Completed, ProtocolVersion::V1) => "TASK_STATE_COMPLETED",
            (Self::Failed, ProtocolVersion::V1) => "TASK_STATE_FAILED",
            (Self::Canceled, ProtocolVersion::V1) => "TASK_STATE_CANCELED",
            (Self::InputRequired, ProtocolVersion::V1) => "TASK_STATE_INPUT_REQUIRED",
            (Self::Rejected, ProtocolVersion::V1) => "TASK_STATE_REJECTED",
            (Self::AuthRequired, ProtocolVersion::V1) => "TASK_STATE_AUTH_REQUIRED",
            (Self::Submitted, ProtocolVersion::V03) => "submitted",
            (Self::Working, ProtocolVersion::V03) => "working",
            (Self::Completed, ProtocolVersion::V03) => "completed",
            (Self::Failed, ProtocolVersion::V03) => "failed",
            (Self::Canceled, ProtocolVersion::V03) => "canceled",
            (Self::InputRequired, ProtocolVersion::V03) => "input-required",
            (Self::Rejected, ProtocolVersion::V03) => "rejected",
            (Self::AuthRequired, ProtocolVersion::V03) => "auth-required",
        }
    }

    /// The state with this word, if it is one.
    #[must_use]
    pub fn parse(version: ProtocolVersion, word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.word(version) == word)
    }

    pub(crate) fn read(version: ProtocolVersion, node: &Node<'_>) -> Result<Self, A2aError> {
        let word = node.text(MAX_NAME_BYTES)?;
        Self::parse(version, word).ok_or_else(|| {
            let known = Self::ALL.map(|state| state.word(version)).join(", ");
            node.wrong(format!("is one of {known}"))
        })
    }
}

/// The state of a task at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskStatus {
    /// The state.
    pub state: TaskState,
    /// What the agent says of it.
    pub message: Option<Message>,
    /// Since when.
    pub timestamp: Option<Timestamp>,
}

impl TaskStatus {
    /// A state that nothing is said of.
    #[must_use]
    pub const fn new(state: TaskState, at: Timestamp) -> Self {
        Self {
            state,
            message: None,
            timestamp: Some(at),
        }
    }

    /// The same status with a message.
    #[must_use]
    pub fn saying(mut self, message: Message) -> Self {
        self.message = Some(message);
        self
    }

    /// Its form on the wire.
    #[must_use]
    pub fn encode(&self, version: ProtocolVersion) -> Value {
        let mut out = Map::new();
        out.insert("state".to_owned(), json!(self.state.word(version)));
        if let Some(message) = &self.message {
            out.insert("message".to_owned(), message.encode(version));
        }
        if let Some(at) = self.timestamp {
            out.insert("timestamp".to_owned(), json!(at));
        }
        Value::Object(out)
    }

    pub(crate) fn read(version: ProtocolVersion, node: &Node<'_>) -> Result<Self, A2aError> {
        let message = node.get("message")?;
        let message = message.map(|message| Message::read(version, &message));
        Ok(Self {
            // A state that is not known is one in which it goes on.
            state: TaskState::parse(version, node.need("state")?.text(MAX_NAME_BYTES)?)
                .unwrap_or(TaskState::Working),
            message: message.transpose()?,
            timestamp: node.get_time("timestamp").unwrap_or_default(),
        })
    }
}

/// Something that a task made.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    /// Unique within the task.
    pub artifact_id: String,
    /// For a person.
    pub name: Option<String>,
    /// For a person.
    pub description: Option<String>,
    /// What it is made of; at least one.
    pub parts: Vec<Part>,
    /// Whatever else is said of it.
    pub metadata: Map<String, Value>,
    /// URIs of the extensions that it uses.
    pub extensions: Vec<String>,
}

impl Artifact {
    /// An artifact that nothing is said of.
    pub fn new(artifact_id: impl Into<String>, parts: Vec<Part>) -> Self {
        Self {
            artifact_id: artifact_id.into(),
            name: None,
            description: None,
            parts,
            metadata: Map::new(),
            extensions: Vec::new(),
        }
    }

    /// The same artifact with a name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Its form on the wire.
    #[must_use]
    pub fn encode(&self, version: ProtocolVersion) -> Value {
        let mut out = Map::new();
        out.insert("artifactId".to_owned(), json!(self.artifact_id));
        put_text(&mut out, "name", self.name.as_deref());
        put_text(&mut out, "description", self.description.as_deref());
        out.insert("parts".to_owned(), encode_parts(version, &self.parts));
        put_map(&mut out, "metadata", &self.metadata);
        put_texts(&mut out, "extensions", &self.extensions);
        Value::Object(out)
    }

    pub(crate) fn read(version: ProtocolVersion, node: &Node<'_>) -> Result<Self, A2aError> {
        Ok(Self {
            artifact_id: node.need_id("artifactId", MAX_ID_BYTES)?,
            name: node.get_text("name", MAX_NAME_BYTES)?,
            description: node.get_text("description", MAX_DESCRIPTION_BYTES)?,
            // One that only ends may have none.
            parts: match node.get("parts")? {
                Some(parts) if parts.value() != &json!([]) => read_parts(version, node)?,
                _ => Vec::new(),
            },
            metadata: node.get_map("metadata")?,
            extensions: node.get_texts("extensions", MAX_REFERENCES, MAX_URL_BYTES)?,
        })
    }
}

/// The conversation of a task; empty where the agent does not name one.
pub(crate) fn context_of(node: &Node<'_>) -> Result<String, A2aError> {
    let id = node.get_text("contextId", MAX_ID_BYTES)?;
    Ok(id.unwrap_or_default())
}

/// What an agent does for a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The task.
    pub id: String,
    /// The conversation that it belongs to.
    pub context_id: String,
    /// Where it is.
    pub status: TaskStatus,
    /// What it made.
    pub artifacts: Vec<Artifact>,
    /// What was said, oldest first; nothing where nobody wants it.
    pub history: Vec<Message>,
    /// Whatever else is said of it.
    pub metadata: Map<String, Value>,
}

impl Task {
    /// Its form on the wire.
    #[must_use]
    pub fn encode(&self, version: ProtocolVersion) -> Value {
        let mut out = Map::new();
        if version == ProtocolVersion::V03 {
            out.insert("kind".to_owned(), json!("task"));
        }
        out.insert("id".to_owned(), json!(self.id));
        out.insert("contextId".to_owned(), json!(self.context_id));
        out.insert("status".to_owned(), self.status.encode(version));
        let mut put = |key: &str, items: Vec<Value>| {
            if !items.is_empty() {
                out.insert(key.to_owned(), Value::Array(items));
            }
        };
        let artifacts = self.artifacts.iter().map(|it| it.encode(version));
        put("artifacts", artifacts.collect());
        let history = self.history.iter().map(|it| it.encode(version));
        put("history", history.collect());
        put_map(&mut out, "metadata", &self.metadata);
        Value::Object(out)
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidParams`](crate::ErrorKind::InvalidParams), naming the field.
    pub fn decode(version: ProtocolVersion, value: &Value) -> Result<Self, A2aError> {
        Self::read(version, &Node::root(value))
    }

    pub(crate) fn read(version: ProtocolVersion, node: &Node<'_>) -> Result<Self, A2aError> {
        let list = |name: &str| match node.get(name)? {
            Some(list) => list.list(MAX_ITEMS),
            None => Ok(Vec::new()),
        };
        let artifacts = list("artifacts")?;
        let artifacts = artifacts.iter().map(|it| Artifact::read(version, it));
        let history = list("history")?;
        let history = history.iter().map(|it| Message::read(version, it));
        Ok(Self {
            id: node.need_id("id", MAX_ID_BYTES)?,
            context_id: context_of(node)?,
            status: TaskStatus::read(version, &node.need("status")?)?,
            artifacts: artifacts.collect::<Result<_, _>>()?,
            history: history.collect::<Result<_, _>>()?,
            metadata: node.get_map("metadata")?,
        })
    }
}
