//! The types of `wit/agent.wit`.

use serde::Serialize;
use wasmtime::component::{ComponentType, Lift, Lower};

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ComponentType, Lift, Lower)]
#[component(record)]
pub struct AgentFailure {
    /// A word for programs.
    pub code: String,
    /// A sentence for a person.
    pub message: String,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ComponentType, Lift, Lower)]
#[component(record)]
pub struct ToolCall {
    /// The model's id of the call.
    pub id: String,
    /// The name of the tool.
    pub name: String,
    /// JSON.
    pub input: String,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ComponentType, Lift, Lower)]
#[component(record)]
pub struct ToolResult {
    /// The id of the call.
    #[component(name = "call-id")]
    pub call_id: String,
    /// What the model is shown.
    pub content: String,
    /// Whether the call failed or was refused.
    #[component(name = "is-error")]
    pub is_error: bool,
    /// JSON.
    pub output: Option<String>,
}

/// A tool as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ComponentType, Lift, Lower)]
#[component(record)]
pub struct ToolDefinition {
    /// By which it is called.
    pub name: String,
    /// When and how to use it.
    pub description: String,
    /// JSON Schema of the input.
    #[component(name = "input-schema")]
    pub input_schema: String,
}

/// A part of the conversation that a model is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ComponentType, Lift)]
#[component(variant)]
pub enum Message {
    /// The input of the request.
    #[component(name = "input")]
    Input,
    /// The earlier requests of the session.
    #[component(name = "history")]
    History,
    /// What the user says.
    #[component(name = "user")]
    User(String),
    /// What the assistant has said.
    #[component(name = "assistant")]
    Assistant(String),
    /// The reply with this step.
    #[component(name = "reply")]
    Reply(u32),
    /// The results of the calls of the reply before.
    #[component(name = "results")]
    Results(Vec<ToolResult>),
}

/// Which of the agent's tools a model is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ComponentType, Lift)]
#[component(variant)]
pub enum ToolChoice {
    /// All of them.
    #[component(name = "all")]
    All,
    /// Those with these names.
    #[component(name = "only")]
    Only(Vec<String>),
}

/// What a model is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ComponentType, Lift)]
#[component(record)]
pub struct Ask {
    /// The system prompt.
    pub system: Option<String>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// Of the agent's tools.
    pub tools: ToolChoice,
    /// Tools that the component answers by itself.
    #[component(name = "own-tools")]
    pub own_tools: Vec<ToolDefinition>,
    /// An alias of `models.model_mapping`.
    pub model: Option<String>,
    /// Output tokens at the most.
    #[component(name = "max-output-tokens")]
    pub max_output_tokens: Option<u32>,
    /// JSON Schema of the answer.
    #[component(name = "output-schema")]
    pub output_schema: Option<String>,
    /// Whether whoever follows the request reads along.
    pub stream: bool,
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum StopReason {
    /// It had nothing more to say.
    #[component(name = "end-turn")]
    EndTurn,
    /// It waits for results.
    #[component(name = "tool-use")]
    ToolUse,
    /// The output limit was reached.
    #[component(name = "max-tokens")]
    MaxTokens,
    /// It declined.
    #[component(name = "refusal")]
    Refusal,
    /// A long turn was paused.
    #[component(name = "pause")]
    Pause,
}

/// Tokens of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Usage {
    /// Of the prompt.
    #[component(name = "input-tokens")]
    pub input_tokens: u64,
    /// Of the reply.
    #[component(name = "output-tokens")]
    pub output_tokens: u64,
}

/// What a model said.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Reply {
    /// The number of the reply in the request, from 1.
    pub step: u32,
    /// Its text.
    pub text: String,
    /// The tools that it calls.
    #[component(name = "tool-calls")]
    pub tool_calls: Vec<ToolCall>,
    /// Why it stopped.
    pub stop: StopReason,
    /// Tokens.
    pub usage: Usage,
}

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum Speaker {
    /// The user.
    #[component(name = "user")]
    User,
    /// The agent.
    #[component(name = "assistant")]
    Assistant,
}

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Utterance {
    /// By whom.
    pub speaker: Speaker,
    /// What.
    pub text: String,
}

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum LogLevel {
    /// For whoever wrote the component.
    #[component(name = "debug")]
    Debug,
    /// Worth knowing.
    #[component(name = "info")]
    Info,
    /// Worth a look.
    #[component(name = "warn")]
    Warn,
    /// Something failed.
    #[component(name = "error")]
    Error,
}

/// What a component is asked.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct AgentRequest {
    /// The request.
    pub id: String,
    /// Its session.
    #[component(name = "session-id")]
    pub session_id: String,
    /// The input as JSON.
    pub input: String,
    /// The input as the model is shown it.
    pub text: String,
}

/// What a component answers.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum AgentAnswer {
    /// A text.
    #[component(name = "text")]
    Text(String),
    /// A JSON value.
    #[component(name = "json")]
    Json(String),
}
