//! `rune@a2a-send`: says something to an agent of another installation and waits for its answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rune_a2a::client::{ClientError, Outcome, RemoteAgent, TaskSink, Wakeup};
use rune_a2a::{
    Content, Message, Part, ProtocolVersion, Role, SendMessage, Task, TaskState, TaskStatus,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::parse;
use crate::media::MediaType;
use crate::workspace::Workspace;
use crate::{
    BuiltinTool, RemoteAgents, ToolContext, ToolError, blocking, call_off, code_kind, message_id,
    parts_text, text,
};

/// Bytes of all files of a message.
const MAX_FILE_BYTES: usize = 10 << 20;
/// Bytes of a file of an answer that is shown; of a larger one only how large it is.
const MAX_SHOWN_BYTES: usize = 64 << 10;
/// How long a task may take to be called off: less than a tool has to end.
const CANCEL_GRACE: Duration = Duration::from_millis(600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    url: String,
    message: Option<String>,
    data: Option<Value>,
    #[serde(default)]
    files: Vec<String>,
    context_id: Option<String>,
    task_id: Option<String>,
}

/// Sends a message and follows what comes of it. A call that is stopped calls the task off.
pub(crate) struct A2aSend(pub(crate) RemoteAgents);

#[async_trait]
impl BuiltinTool for A2aSend {
    fn name(&self) -> &'static str {
        "a2a-send"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let chain = context.engine()?.call_chain()?;
        let message = message(context, &input, chain.depth).await?;
        let client = self.0.client(context.egress.clone(), Some(chain.trace));
        let agent = timed(context, client.agent(&input.url)).await?;
        let agent = agent.map_err(|error| failed(&error))?;
        let outcome = sent(context, &agent, SendMessage::new(message)).await?;
        let budget = context.answer_budget();
        Ok(match outcome {
            Outcome::Message(message) => of_message(&message, budget),
            Outcome::Task(task) => of_task(&task, budget),
        })
    }
}

/// Waits for a step of a call, as long as the call may take.
pub(super) async fn timed<T>(
    context: &ToolContext,
    step: impl Future<Output = T>,
) -> Result<T, ToolError> {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(ToolError::cancelled()),
        done = step => Ok(done),
    }
}

pub(super) fn failed(error: &ClientError) -> ToolError {
    ToolError::new(code_kind(error.code()), error.to_string())
}

async fn message(context: &ToolContext, input: &Input, depth: u32) -> Result<Message, ToolError> {
    let mut parts = Vec::new();
    parts.extend(input.message.as_deref().map(Part::text));
    parts.extend(input.data.clone().map(Part::data));
    if !input.files.is_empty() {
        let (workspace, paths) = (context.workspace.clone(), input.files.clone());
        parts.extend(blocking(move || files(&Workspace::open(&workspace)?, &paths)).await?);
    }
    if parts.is_empty() {
        return Err(ToolError::invalid(
            "nothing is said: give `message`, `data` or `files`",
        ));
    }
    let message = Message::new(message_id(&context.idempotency_key), Role::User, parts);
    Ok(Message {
        context_id: input.context_id.clone(),
        task_id: input.task_id.clone(),
        ..message.at_depth(depth)
    })
}

fn files(workspace: &Workspace, paths: &[String]) -> Result<Vec<Part>, ToolError> {
    let mut left = MAX_FILE_BYTES;
    let parts = paths.iter().map(|path| {
        let bytes = workspace.read(path)?;
        left = left.checked_sub(bytes.len()).ok_or_else(|| {
            ToolError::too_large(format!("the files have more than {MAX_FILE_BYTES} bytes"))
        })?;
        let media_type = match MediaType::of(&bytes) {
            Some(media_type) => media_type.mime(),
            None if std::str::from_utf8(&bytes).is_ok() => "text/plain",
            None => "application/octet-stream",
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        Ok(Part::new(Content::Raw(bytes))
            .of_type(media_type)
            .named(name))
    });
    parts.collect()
}

async fn sent(
    context: &ToolContext,
    agent: &RemoteAgent,
    send: SendMessage,
) -> Result<Outcome, ToolError> {
    let (sender, task) = watch::channel(send.message.task_id.clone());
    let told: TaskSink = Arc::new(move |task: &str, _: &str| {
        sender.send_replace(Some(task.to_owned()));
    });
    let wakeup = Wakeup::default();
    let work = agent.run(send, &told, &wakeup);
    tokio::pin!(work);
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => {}
        outcome = &mut work => return outcome.map_err(|error| failed(&error)),
    }
    let _ = timeout(CANCEL_GRACE, call_off(agent, work, task)).await;
    Err(ToolError::cancelled())
}

fn of_message(message: &Message, budget: usize) -> Value {
    let mut answer = told(message.parts.iter(), budget);
    answer["state"] = json!("completed");
    answer["context_id"] = json!(message.context_id);
    answer["task_id"] = json!(message.task_id);
    answer
}

fn of_task(task: &Task, budget: usize) -> Value {
    let TaskStatus { state, message, .. } = &task.status;
    let says = message.as_ref().map(|message| parts_text(&message.parts));
    let says = says.filter(|says| !says.is_empty());
    let parts = task.artifacts.iter().flat_map(|artifact| &artifact.parts);
    let mut answer = told(parts, budget / 2);
    answer["state"] = json!(state.word(ProtocolVersion::V03));
    answer["task_id"] = json!(task.id);
    answer["context_id"] = json!(task.context_id);
    if let Some(says) = &says {
        let shown = text::prefix(says, budget / 4);
        match answer["text"].as_str() {
            Some("") => answer["text"] = json!(shown),
            _ => answer["status_message"] = json!(shown),
        }
    }
    let note = match state {
        TaskState::InputRequired => Some(
            "The agent waits for input. Answer its question with another a2a-send with this task_id and context_id.",
        ),
        TaskState::AuthRequired => {
            Some("The agent waits for credentials, which only an operator can give it.")
        }
        _ => None,
    };
    if let Some(note) = note {
        answer["note"] = json!(note);
    }
    answer
}

/// What parts say, within so many bytes of JSON.
fn told<'a>(parts: impl Iterator<Item = &'a Part> + Clone, budget: usize) -> Value {
    let whole = parts_text(parts.clone());
    let shown = text::prefix(&whole, budget / 2);
    let mut truncated = shown.len() < whole.len();
    let mut left = budget / 2;
    let mut others = Vec::new();
    for part in parts.filter(|part| !matches!(part.content, Content::Text(_))) {
        let value = artifact(part);
        let size = value.to_string().len() + 1;
        if size > left {
            truncated = true;
            continue;
        }
        left -= size;
        others.push(value);
    }
    json!({"text": shown, "artifacts": others, "truncated": truncated})
}

fn artifact(part: &Part) -> Value {
    let mut value = match &part.content {
        Content::Text(text) => json!({ "text": text }),
        Content::Data(data) => json!({ "data": data }),
        Content::Url(url) => json!({ "url": url }),
        Content::Raw(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if bytes.len() <= MAX_SHOWN_BYTES => json!({ "text": text }),
            _ => json!({ "bytes": bytes.len() }),
        },
    };
    if let Some(media_type) = &part.media_type {
        value["media_type"] = json!(media_type);
    }
    if let Some(name) = &part.filename {
        value["name"] = json!(name);
    }
    value
}
