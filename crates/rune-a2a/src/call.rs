//! What a client asks for.

use rune_store_runtime::Timestamp;
use serde_json::{Map, Value};

use crate::limits::{
    DEFAULT_PAGE_SIZE, MAX_ID_BYTES, MAX_NAME_BYTES, MAX_PAGE_SIZE, MAX_REFERENCES,
};
use crate::message::{put_map, put_texts};
use crate::node::Node;
use crate::{A2aError, ErrorKind, Message, ProtocolVersion, PushConfig, TaskState};

/// The longest token of a page in bytes.
const MAX_PAGE_TOKEN_BYTES: usize = 1024;

/// A message for an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct SendMessage {
    /// What is said.
    pub message: Message,
    /// Media types that the client takes; any where it is empty.
    pub accepted_output_modes: Vec<String>,
    /// A webhook for the task.
    pub push: Option<PushConfig>,
    /// How many messages of the history are wanted; all where absent.
    pub history_length: Option<u32>,
    /// Answer at once; else when the task has ended or waits for the client.
    pub return_immediately: bool,
    /// Whatever else is said of the call.
    pub metadata: Map<String, Value>,
}

impl SendMessage {
    /// A message, and nothing said of how it is to be answered.
    #[must_use]
    pub fn new(message: Message) -> Self {
        Self {
            message,
            accepted_output_modes: Vec::new(),
            push: None,
            history_length: None,
            return_immediately: false,
            metadata: Map::new(),
        }
    }

    /// The parameters of the call that sends it.
    #[must_use]
    pub fn encode(&self, version: ProtocolVersion) -> Value {
        let (push, wait, waits) = match version {
            ProtocolVersion::V1 => (
                "taskPushNotificationConfig",
                "returnImmediately",
                self.return_immediately,
            ),
            ProtocolVersion::V03 => (
                "pushNotificationConfig",
                "blocking",
                !self.return_immediately,
            ),
        };
        let mut configuration = Map::new();
        configuration.insert(wait.to_owned(), Value::Bool(waits));
        put_texts(
            &mut configuration,
            "acceptedOutputModes",
            &self.accepted_output_modes,
        );
        if let Some(length) = self.history_length {
            configuration.insert("historyLength".to_owned(), Value::from(length));
        }
        if let Some(config) = &self.push {
            configuration.insert(push.to_owned(), config.encode_inline(version));
        }
        let mut out = Map::new();
        out.insert("message".to_owned(), self.message.encode(version));
        out.insert("configuration".to_owned(), Value::Object(configuration));
        put_map(&mut out, "metadata", &self.metadata);
        Value::Object(out)
    }
}

/// A task, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetTask {
    /// The task.
    pub id: String,
    /// How many messages of the history are wanted; all where absent.
    pub history_length: Option<u32>,
}

/// Which tasks. Absent fields match everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListTasks {
    /// Only of this conversation.
    pub context_id: Option<String>,
    /// Only in this state.
    pub status: Option<TaskState>,
    /// Tasks at the most: 1 to [`MAX_PAGE_SIZE`].
    pub page_size: u32,
    /// The `nextPageToken` of the page before.
    pub page_token: Option<String>,
    /// How many messages of the history are wanted; all where absent.
    pub history_length: Option<u32>,
    /// Only those that are in their state since then, or a later time.
    pub status_timestamp_after: Option<Timestamp>,
    /// Whether artifacts are wanted.
    pub include_artifacts: bool,
}

/// A task that is called off.
#[derive(Debug, Clone, PartialEq)]
pub struct CancelTask {
    /// The task.
    pub id: String,
    /// Whatever else is said of the call.
    pub metadata: Map<String, Value>,
}

/// A webhook of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushConfigRef {
    /// The task.
    pub task_id: String,
    /// The webhook; in 0.3 it may be missing, and then the first one is meant.
    pub id: Option<String>,
}

/// The webhooks of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPushConfigs {
    /// The task.
    pub task_id: String,
    /// Webhooks at the most: 1 to [`MAX_PAGE_SIZE`].
    pub page_size: u32,
    /// The `nextPageToken` of the page before.
    pub page_token: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Says something, and answers with what comes of it.
    SendMessage(Box<SendMessage>),
    /// Says something, and answers with a stream.
    SendStreamingMessage(Box<SendMessage>),
    /// Looks at a task.
    GetTask(GetTask),
    /// Looks at tasks.
    ListTasks(ListTasks),
    /// Calls a task off.
    CancelTask(CancelTask),
    /// Follows the task of this id.
    SubscribeToTask(String),
    /// Adds a webhook, or replaces the one of this id.
    CreatePushConfig(PushConfig),
    /// Looks at a webhook.
    GetPushConfig(PushConfigRef),
    /// Looks at the webhooks of a task.
    ListPushConfigs(ListPushConfigs),
    /// Removes a webhook.
    DeletePushConfig(PushConfigRef),
    /// Looks at what only clients with credentials may know of the agent.
    GetExtendedAgentCard,
}

/// A call of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The version that it is spelled in, and answered in.
    pub version: ProtocolVersion,
    /// The tenant, where the client names one.
    pub tenant: Option<String>,
    /// What is asked for.
    pub operation: Operation,
}

impl Call {
    /// Reads a method and its parameters. The spelling of the method says the version.
    ///
    /// # Errors
    /// [`ErrorKind::MethodNotFound`]; [`ErrorKind::InvalidParams`], naming the field.
    pub fn decode(method: &str, params: &Value) -> Result<Self, A2aError> {
        let version = ProtocolVersion::of_method(method);
        let node = Node::root(params);
        let operation = match method {
            "SendMessage" | "message/send" => {
                Operation::SendMessage(Box::new(send(version, &node)?))
            }
            "SendStreamingMessage" | "message/stream" => {
                Operation::SendStreamingMessage(Box::new(send(version, &node)?))
            }
            "GetTask" | "tasks/get" => Operation::GetTask(GetTask {
                id: node.need_id("id", MAX_ID_BYTES)?,
                history_length: node.get_count("historyLength")?,
            }),
            "ListTasks" => Operation::ListTasks(list_tasks(&node)?),
            "CancelTask" | "tasks/cancel" => Operation::CancelTask(CancelTask {
                id: node.need_id("id", MAX_ID_BYTES)?,
                metadata: node.get_map("metadata")?,
            }),
            "SubscribeToTask" | "tasks/resubscribe" => {
                Operation::SubscribeToTask(node.need_id("id", MAX_ID_BYTES)?)
            }
            "CreateTaskPushNotificationConfig" | "tasks/pushNotificationConfig/set" => {
                Operation::CreatePushConfig(PushConfig::decode(version, params)?)
            }
            "GetTaskPushNotificationConfig" | "tasks/pushNotificationConfig/get" => {
                Operation::GetPushConfig(push_ref(version, &node)?)
            }
            "ListTaskPushNotificationConfigs" | "tasks/pushNotificationConfig/list" => {
                let task = match version {
                    ProtocolVersion::V1 => "taskId",
                    ProtocolVersion::V03 => "id",
                };
                Operation::ListPushConfigs(ListPushConfigs {
                    task_id: node.need_id(task, MAX_ID_BYTES)?,
                    page_size: page_size(&node)?,
                    page_token: node.get_text("pageToken", MAX_PAGE_TOKEN_BYTES)?,
                })
            }
            "DeleteTaskPushNotificationConfig" | "tasks/pushNotificationConfig/delete" => {
                let push = push_ref(version, &node)?;
                if push.id.is_none() {
                    node.need("pushNotificationConfigId")?;
                }
                Operation::DeletePushConfig(push)
            }
            "GetExtendedAgentCard" | "agent/getAuthenticatedExtendedCard" => {
                Operation::GetExtendedAgentCard
            }
            _ => {
                let shown: String = method.chars().take(80).collect();
                let message = format!("method `{shown}` does not exist");
                return Err(A2aError::new(ErrorKind::MethodNotFound, message));
            }
        };
        Ok(Self {
            version,
            tenant: node.get_text("tenant", MAX_NAME_BYTES)?,
            operation,
        })
    }
}

fn send(version: ProtocolVersion, node: &Node<'_>) -> Result<SendMessage, A2aError> {
    let message = Message::read(version, &node.need("message")?)?;
    let metadata = node.get_map("metadata")?;
    let mut send = SendMessage {
        message,
        accepted_output_modes: Vec::new(),
        push: None,
        history_length: None,
        return_immediately: false,
        metadata,
    };
    let Some(configuration) = node.get("configuration")? else {
        return Ok(send);
    };
    let (push, wait) = match version {
        ProtocolVersion::V1 => ("taskPushNotificationConfig", "returnImmediately"),
        ProtocolVersion::V03 => ("pushNotificationConfig", "blocking"),
    };
    send.accepted_output_modes =
        configuration.get_texts("acceptedOutputModes", MAX_REFERENCES, MAX_NAME_BYTES)?;
    send.history_length = configuration.get_count("historyLength")?;
    let push = configuration.get(push)?;
    let push = push.map(|push| PushConfig::read_inline(version, &push));
    send.push = push.transpose()?;
    let flag = configuration.get_bool(wait)?;
    send.return_immediately = match version {
        ProtocolVersion::V1 => flag == Some(true),
        // What is not said waits, as the servers of 0.3 do.
        ProtocolVersion::V03 => flag == Some(false),
    };
    Ok(send)
}

fn list_tasks(node: &Node<'_>) -> Result<ListTasks, A2aError> {
    let status = node.get("status")?;
    // Unspecified is no condition.
    let status = status.filter(|node| {
        node.value().as_str() != Some("TASK_STATE_UNSPECIFIED") && node.value() != ""
    });
    let status = status.map(|node| TaskState::read(ProtocolVersion::V1, &node));
    Ok(ListTasks {
        context_id: node.get_text("contextId", MAX_ID_BYTES)?,
        status: status.transpose()?,
        page_size: page_size(node)?,
        page_token: node.get_text("pageToken", MAX_PAGE_TOKEN_BYTES)?,
        history_length: node.get_count("historyLength")?,
        status_timestamp_after: node.get_time("statusTimestampAfter")?,
        include_artifacts: node.get_bool("includeArtifacts")?.unwrap_or_default(),
    })
}

fn page_size(node: &Node<'_>) -> Result<u32, A2aError> {
    match node.get_count("pageSize")? {
        None => Ok(DEFAULT_PAGE_SIZE),
        Some(size @ 1..=MAX_PAGE_SIZE) => Ok(size),
        Some(_) => Err(node
            .need("pageSize")?
            .wrong(format!("is 1 to {MAX_PAGE_SIZE}"))),
    }
}

fn push_ref(version: ProtocolVersion, node: &Node<'_>) -> Result<PushConfigRef, A2aError> {
    Ok(match version {
        ProtocolVersion::V1 => PushConfigRef {
            task_id: node.need_id("taskId", MAX_ID_BYTES)?,
            id: Some(node.need_id("id", MAX_ID_BYTES)?),
        },
        ProtocolVersion::V03 => PushConfigRef {
            task_id: node.need_id("id", MAX_ID_BYTES)?,
            id: node.get_text("pushNotificationConfigId", MAX_ID_BYTES)?,
        },
    })
}
