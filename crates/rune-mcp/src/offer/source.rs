//! Where the agents are that are offered.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use rune_store_runtime::{
    ApprovalDecision, ApprovalId, Failure, RequestId, SessionId, TraceContext,
};
use serde_json::Value;
use tokio::sync::watch;

/// Who asks: the head of the HTTP request that a message came with; nothing where it came another way.
pub type Asking<'a> = Option<&'a http::request::Parts>;

/// The agents, and what can be done with them.
///
/// Every request that was begun goes on whether or not its events are read. Messages of failures are for the client.
#[async_trait]
pub trait AgentSource: Send + Sync + 'static {
    /// The agents that can be called, sorted by name.
    async fn agents(&self, asking: Asking<'_>) -> Result<Vec<OfferedAgent>, Failure>;

    /// The agent with this name; nothing where none is deployed. One that is just being started is waited for.
    async fn agent(&self, asking: Asking<'_>, name: &str) -> Result<Option<OfferedAgent>, Failure>;

    /// Changes whenever the agents may be others.
    fn changes(&self) -> watch::Receiver<()>;

    /// Begins a request. It is durable when this returns.
    async fn begin(&self, asking: Asking<'_>, call: AgentCall) -> Result<AgentRun, Failure>;

    /// The events of a request of this agent, made by whoever asks, behind the journal entry `after`. Refuses those of others as
    /// not found.
    async fn follow(
        &self,
        asking: Asking<'_>,
        agent: &str,
        request_id: RequestId,
        after: u64,
    ) -> Result<AgentRun, Failure>;

    /// What a request waits for a person to decide.
    async fn questions(&self, request_id: RequestId) -> Result<Vec<Question>, Failure>;

    /// Decides a question in the name of whoever asks.
    async fn decide(&self, asking: Asking<'_>, answer: Answer) -> Result<(), Failure>;

    /// Cancels a request. What goes wrong is logged.
    async fn cancel(&self, request_id: RequestId);

    /// Whether this process ends: a connection that breaks now says nothing about what its client wants.
    fn is_ending(&self) -> bool;
}

/// An agent that can be called.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferedAgent {
    /// Its name, which is the tool's.
    pub name: String,
    /// What it says about itself; may be empty.
    pub description: String,
    /// JSON Schema of its input; text where absent.
    pub input_schema: Option<Value>,
    /// JSON Schema of its output.
    pub output_schema: Option<Value>,
}

/// What a client asks an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentCall {
    /// The agent.
    pub agent: String,
    /// The input.
    pub input: Value,
    /// The conversation; a new one where absent.
    pub session_id: Option<SessionId>,
    /// The same key with the same call is the same request.
    pub idempotency_key: Option<String>,
    /// Level on which it stands below an outermost request of another agent, as its client says; 0 where none called.
    pub depth: u32,
    /// The trace that it belongs to, where its client says so with the call.
    pub trace: Option<TraceContext>,
}

/// A request that was begun.
pub struct AgentRun {
    /// The request.
    pub request_id: RequestId,
    /// Its conversation.
    pub session_id: SessionId,
    /// What happens to it. Ends after `done` or `error`; without them where its process ended first, and it goes on later.
    pub events: BoxStream<'static, Result<RunEvent, Failure>>,
}

/// An event as the HTTP API has it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEvent {
    /// Its number in the journal; what is only said live has none.
    pub seq: Option<u64>,
    /// Its name, such as `tool_start`.
    pub name: String,
    /// What it says.
    pub data: Value,
}

impl RunEvent {
    /// A text of the data; empty where there is none.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.data[field].as_str().unwrap_or_default()
    }
}

/// A tool call that a person has to decide about.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The approval.
    pub approval_id: ApprovalId,
    /// The tool.
    pub tool: String,
    /// Its input.
    pub input: Value,
    /// Why a person is asked.
    pub reason: String,
}

/// What a person has decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The request.
    pub request_id: RequestId,
    /// The approval.
    pub approval_id: ApprovalId,
    /// Yes or no.
    pub decision: ApprovalDecision,
    /// For the record.
    pub note: Option<String>,
}
