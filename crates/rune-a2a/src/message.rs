//! Messages and what they are made of.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value, json};

use crate::limits::{MAX_ID_BYTES, MAX_NAME_BYTES, MAX_PARTS, MAX_REFERENCES, MAX_URL_BYTES};
use crate::node::Node;
use crate::{A2aError, ProtocolVersion};

/// The key under which data that is no object stands in 0.3, which has only objects.
const WRAPPED: &str = "value";
/// The key of the part's metadata that says so.
const IS_WRAPPED: &str = "data_part_compat";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The client.
    User,
    /// The agent.
    Agent,
}

impl Role {
    const ALL: [Self; 2] = [Self::User, Self::Agent];

    /// The word on the wire.
    #[must_use]
    pub const fn word(self, version: ProtocolVersion) -> &'static str {
        match (self, version) {
            (Self::User, ProtocolVersion::V1) => "ROLE_USER",
            (Self::Agent, ProtocolVersion::V1) => "ROLE_AGENT",
            (Self::User, ProtocolVersion::V03) => "user",
            (Self::Agent, ProtocolVersion::V03) => "agent",
        }
    }

    fn decode(version: ProtocolVersion, node: &Node<'_>) -> Result<Self, A2aError> {
        let word = node.text(MAX_NAME_BYTES)?;
        let role = Self::ALL
            .into_iter()
            .find(|role| role.word(version) == word);
        role.ok_or_else(|| {
            let [user, agent] = Self::ALL.map(|role| role.word(version));
            node.wrong(format!("is `{user}` or `{agent}`"))
        })
    }
}

/// What a part has in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text.
    Text(String),
    /// The bytes of a file.
    Raw(Vec<u8>),
    /// Where a file is.
    Url(String),
    /// Any JSON.
    Data(Value),
}

/// A part of a message or an artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What it has in it.
    pub content: Content,
    /// Such as `text/plain`.
    pub media_type: Option<String>,
    /// Of a file.
    pub filename: Option<String>,
    /// Whatever else the sender says of it.
    pub metadata: Map<String, Value>,
}

impl Part {
    /// A part with nothing said of it.
    #[must_use]
    pub fn new(content: Content) -> Self {
        Self {
            content,
            media_type: None,
            filename: None,
            metadata: Map::new(),
        }
    }

    /// A part of text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Content::Text(text.into()))
    }

    /// A part of data.
    #[must_use]
    pub fn data(data: Value) -> Self {
        Self::new(Content::Data(data))
    }

    /// The same part with a media type.
    #[must_use]
    pub fn of_type(mut self, media_type: impl Into<String>) -> Self {
        self.media_type = Some(media_type.into());
        self
    }

    /// The same part with a file name.
    #[must_use]
    pub fn named(mut self, filename: impl Into<String>) -> Self {
        self.filename = Some(filename.into());
        self
    }

    /// Its form on the wire.
    #[must_use]
    pub fn encode(&self, version: ProtocolVersion) -> Value {
        match version {
            ProtocolVersion::V1 => self.encode_v1(),
            ProtocolVersion::V03 => self.encode_v03(),
        }
    }

    fn encode_v1(&self) -> Value {
        let mut out = Map::new();
        let (key, value) = match &self.content {
            Content::Text(text) => ("text", json!(text)),
            Content::Raw(bytes) => ("raw", json!(BASE64_STANDARD.encode(bytes))),
            Content::Url(url) => ("url", json!(url)),
            Content::Data(data) => ("data", data.clone()),
        };
        out.insert(key.to_owned(), value);
        put_text(&mut out, "filename", self.filename.as_deref());
        put_text(&mut out, "mediaType", self.media_type.as_deref());
        put_map(&mut out, "metadata", &self.metadata);
        Value::Object(out)
    }

    fn encode_v03(&self) -> Value {
        let mut out = Map::new();
        let mut metadata = self.metadata.clone();
        let file = |key: &str, value: Value| {
            let mut file = Map::new();
            file.insert(key.to_owned(), value);
            put_text(&mut file, "name", self.filename.as_deref());
            put_text(&mut file, "mimeType", self.media_type.as_deref());
            ("file", "file", Value::Object(file))
        };
        let (kind, key, value) = match &self.content {
            Content::Text(text) => ("text", "text", json!(text)),
            Content::Raw(bytes) => file("bytes", json!(BASE64_STANDARD.encode(bytes))),
            Content::Url(url) => file("uri", json!(url)),
            Content::Data(data) if data.is_object() => ("data", "data", data.clone()),
            Content::Data(data) => {
                metadata.insert(IS_WRAPPED.to_owned(), Value::Bool(true));
                ("data", "data", json!({WRAPPED: data}))
            }
        };
        out.insert("kind".to_owned(), json!(kind));
        out.insert(key.to_owned(), value);
        put_map(&mut out, "metadata", &metadata);
        Value::Object(out)
    }

    pub(crate) fn decode(version: ProtocolVersion, node: &Node<'_>) -> Result<Self, A2aError> {
        match version {
            ProtocolVersion::V1 => Self::decode_v1(node),
            ProtocolVersion::V03 => Self::decode_v03(node),
        }
    }

    fn decode_v1(node: &Node<'_>) -> Result<Self, A2aError> {
        let metadata = node.get_map("metadata")?;
        // `null` is data, too, and for the others it is nothing.
        let data = node.has("data").then(|| node.value()["data"].clone());
        let others = [node.get("text")?, node.get("raw")?, node.get("url")?];
        let content = match (others, data) {
            ([Some(text), None, None], None) => Content::Text(text.text(usize::MAX)?.to_owned()),
            ([None, Some(raw), None], None) => Content::Raw(raw.bytes()?),
            ([None, None, Some(url)], None) => Content::Url(url.id(MAX_URL_BYTES)?.to_owned()),
            ([None, None, None], Some(data)) => Content::Data(data),
            _ => return Err(node.wrong("has exactly one of `text`, `raw`, `url` and `data`")),
        };
        Ok(Self {
            content,
            media_type: node.get_text("mediaType", MAX_NAME_BYTES)?,
            filename: node.get_text("filename", MAX_NAME_BYTES)?,
            metadata,
        })
    }

    fn decode_v03(node: &Node<'_>) -> Result<Self, A2aError> {
        let mut metadata = node.get_map("metadata")?;
        let kind = node.need("kind")?;
        let (mut media_type, mut filename) = (None, None);
        let content = match kind.text(MAX_NAME_BYTES)? {
            "text" => Content::Text(node.need("text")?.text(usize::MAX)?.to_owned()),
            "data" => {
                let data = node.need("data")?.value().clone();
                if !data.is_object() {
                    return Err(node.need("data")?.wrong("has to be an object"));
                }
                let alone = data.as_object().is_some_and(|data| data.len() == 1);
                match (metadata.get(IS_WRAPPED), data.get(WRAPPED)) {
                    (Some(Value::Bool(true)), Some(inner)) if alone => {
                        let inner = inner.clone();
                        metadata.remove(IS_WRAPPED);
                        Content::Data(inner)
                    }
                    _ => Content::Data(data),
                }
            }
            "file" => {
                let file = node.need("file")?;
                media_type = file.get_text("mimeType", MAX_NAME_BYTES)?;
                filename = file.get_text("name", MAX_NAME_BYTES)?;
                match (file.get("bytes")?, file.get("uri")?) {
                    (Some(bytes), None) => Content::Raw(bytes.bytes()?),
                    (None, Some(uri)) => Content::Url(uri.id(MAX_URL_BYTES)?.to_owned()),
                    _ => return Err(file.wrong("has exactly one of `bytes` and `uri`")),
                }
            }
            _ => return Err(kind.wrong("is `text`, `file` or `data`")),
        };
        Ok(Self {
            content,
            media_type,
            filename,
            metadata,
        })
    }
}

/// Something that is said.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// As the sender names it.
    pub message_id: String,
    /// The conversation.
    pub context_id: Option<String>,
    /// The task that it is about.
    pub task_id: Option<String>,
    /// Who says it.
    pub role: Role,
    /// What is said; at least one.
    pub parts: Vec<Part>,
    /// Whatever else the sender says of it.
    pub metadata: Map<String, Value>,
    /// URIs of the extensions that it uses.
    pub extensions: Vec<String>,
    /// Other tasks that it is about.
    pub reference_task_ids: Vec<String>,
}

impl Message {
    /// A message without a task.
    pub fn new(message_id: impl Into<String>, role: Role, parts: Vec<Part>) -> Self {
        Self {
            message_id: message_id.into(),
            context_id: None,
            task_id: None,
            role,
            parts,
            metadata: Map::new(),
            extensions: Vec::new(),
            reference_task_ids: Vec::new(),
        }
    }

    /// The same message about a task.
    #[must_use]
    pub fn of_task(mut self, task_id: impl Into<String>, context_id: impl Into<String>) -> Self {
        self.task_id = Some(task_id.into());
        self.context_id = Some(context_id.into());
        self
    }

    /// Its text parts, joined by line ends.
    #[must_use]
    pub fn text(&self) -> String {
        let texts = self.parts.iter().filter_map(|part| match &part.content {
            Content::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// Its form on the wire.
    #[must_use]
    pub fn encode(&self, version: ProtocolVersion) -> Value {
        let mut out = Map::new();
        if version == ProtocolVersion::V03 {
            out.insert("kind".to_owned(), json!("message"));
        }
        out.insert("messageId".to_owned(), json!(self.message_id));
        put_text(&mut out, "contextId", self.context_id.as_deref());
        put_text(&mut out, "taskId", self.task_id.as_deref());
        out.insert("role".to_owned(), json!(self.role.word(version)));
        out.insert("parts".to_owned(), encode_parts(version, &self.parts));
        put_map(&mut out, "metadata", &self.metadata);
        put_texts(&mut out, "extensions", &self.extensions);
        put_texts(&mut out, "referenceTaskIds", &self.reference_task_ids);
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
        Ok(Self {
            message_id: node.need_id("messageId", MAX_ID_BYTES)?,
            context_id: node.get_text("contextId", MAX_ID_BYTES)?,
            task_id: node.get_text("taskId", MAX_ID_BYTES)?,
            role: Role::decode(version, &node.need("role")?)?,
            parts: read_parts(version, node)?,
            metadata: node.get_map("metadata")?,
            extensions: node.get_texts("extensions", MAX_REFERENCES, MAX_URL_BYTES)?,
            reference_task_ids: node.get_texts("referenceTaskIds", MAX_REFERENCES, MAX_ID_BYTES)?,
        })
    }
}

pub(crate) fn encode_parts(version: ProtocolVersion, parts: &[Part]) -> Value {
    Value::Array(parts.iter().map(|part| part.encode(version)).collect())
}

/// The parts of a message or an artifact; at least one.
pub(crate) fn read_parts(version: ProtocolVersion, node: &Node<'_>) -> Result<Vec<Part>, A2aError> {
    let list = node.need("parts")?;
    let parts = list.list(MAX_PARTS)?;
    if parts.is_empty() {
        return Err(list.wrong("has at least one part"));
    }
    let parts = parts.iter().map(|part| Part::decode(version, part));
    parts.collect()
}

pub(crate) fn put_text(out: &mut Map<String, Value>, key: &str, text: Option<&str>) {
    if let Some(text) = text {
        out.insert(key.to_owned(), json!(text));
    }
}

pub(crate) fn put_texts(out: &mut Map<String, Value>, key: &str, texts: &[String]) {
    if !texts.is_empty() {
        out.insert(key.to_owned(), json!(texts));
    }
}

pub(crate) fn put_map(out: &mut Map<String, Value>, key: &str, map: &Map<String, Value>) {
    if !map.is_empty() {
        out.insert(key.to_owned(), Value::Object(map.clone()));
    }
}
