//! Webhooks that are told what happens to a task.

use serde_json::{Map, Value, json};

use crate::limits::{MAX_CREDENTIAL_BYTES, MAX_ID_BYTES, MAX_NAME_BYTES, MAX_URL_BYTES};
use crate::message::put_text;
use crate::node::Node;
use crate::{A2aError, ProtocolVersion};

/// How the webhook knows the sender: `Authorization: SCHEME CREDENTIALS`.
#[derive(Clone, PartialEq, Eq)]
pub struct PushAuthentication {
    /// Such as `Bearer`.
    pub scheme: String,
    /// What stands behind the scheme.
    pub credentials: Option<String>,
}

/// Credentials stay out of the log.
impl std::fmt::Debug for PushAuthentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushAuthentication")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// A webhook of one task.
#[derive(Clone, PartialEq, Eq)]
pub struct PushConfig {
    /// Unique within the task; empty in a request that leaves it to the server.
    pub id: String,
    /// The task; empty where it comes with a message that begins one.
    pub task_id: String,
    /// Where it is posted to.
    pub url: String,
    /// Sent along as `X-A2A-Notification-Token`.
    pub token: Option<String>,
    /// How the webhook knows the sender.
    pub authentication: Option<PushAuthentication>,
}

/// Tokens stay out of the log, and a URL may have one.
impl std::fmt::Debug for PushConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushConfig")
            .field("id", &self.id)
            .field("task_id", &self.task_id)
            .finish_non_exhaustive()
    }
}

impl PushConfig {
    /// Its form on the wire: flat in 1.0, within `{taskId, pushNotificationConfig}` in 0.3.
    #[must_use]
    pub fn encode(&self, version: ProtocolVersion) -> Value {
        let mut inner = self.encode_inner(version);
        match version {
            ProtocolVersion::V1 => {
                inner.insert("taskId".to_owned(), json!(self.task_id));
                Value::Object(inner)
            }
            ProtocolVersion::V03 => {
                json!({"taskId": self.task_id, "pushNotificationConfig": inner})
            }
        }
    }

    /// As it stands in the configuration of a message that begins a task.
    pub(crate) fn encode_inline(&self, version: ProtocolVersion) -> Value {
        let mut inner = self.encode_inner(version);
        if self.id.is_empty() {
            inner.remove("id");
        }
        Value::Object(inner)
    }

    fn encode_inner(&self, version: ProtocolVersion) -> Map<String, Value> {
        let mut out = Map::new();
        out.insert("id".to_owned(), json!(self.id));
        out.insert("url".to_owned(), json!(self.url));
        put_text(&mut out, "token", self.token.as_deref());
        if let Some(authentication) = &self.authentication {
            let scheme = &authentication.scheme;
            let mut inner = Map::new();
            match version {
                ProtocolVersion::V1 => inner.insert("scheme".to_owned(), json!(scheme)),
                ProtocolVersion::V03 => inner.insert("schemes".to_owned(), json!([scheme])),
            };
            put_text(
                &mut inner,
                "credentials",
                authentication.credentials.as_deref(),
            );
            out.insert("authentication".to_owned(), Value::Object(inner));
        }
        out
    }

    /// Reads it, as a request or an answer has it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidParams`](crate::ErrorKind::InvalidParams), naming the field.
    pub fn decode(version: ProtocolVersion, value: &Value) -> Result<Self, A2aError> {
        let node = Node::root(value);
        let task_id = node.need_id("taskId", MAX_ID_BYTES)?;
        let inner = match version {
            ProtocolVersion::V1 => node,
            ProtocolVersion::V03 => node.need("pushNotificationConfig")?,
        };
        Ok(Self {
            task_id,
            ..Self::read_inline(version, &inner)?
        })
    }

    /// As it stands in the configuration of a message: the task may be missing.
    pub(crate) fn read_inline(version: ProtocolVersion, node: &Node<'_>) -> Result<Self, A2aError> {
        let authentication = node.get("authentication")?;
        let authentication = authentication.map(|node| authentication_of(version, &node));
        Ok(Self {
            id: node.get_text("id", MAX_ID_BYTES)?.unwrap_or_default(),
            task_id: String::new(),
            url: node.need_id("url", MAX_URL_BYTES)?,
            token: node.get_text("token", MAX_CREDENTIAL_BYTES)?,
            authentication: authentication.transpose()?.flatten(),
        })
    }
}

fn authentication_of(
    version: ProtocolVersion,
    node: &Node<'_>,
) -> Result<Option<PushAuthentication>, A2aError> {
    let scheme = match version {
        ProtocolVersion::V1 => Some(node.need_id("scheme", MAX_NAME_BYTES)?),
        // Of several the first is used.
        ProtocolVersion::V03 => {
            let schemes = node.get_texts("schemes", 16, MAX_NAME_BYTES)?;
            schemes.into_iter().find(|scheme| !scheme.is_empty())
        }
    };
    let credentials = node.get_text("credentials", MAX_CREDENTIAL_BYTES)?;
    Ok(scheme.map(|scheme| PushAuthentication {
        scheme,
        credentials,
    }))
}
