//! What a tool can have the engine do that runs it.

use async_trait::async_trait;
use rune_store_runtime::{
    EventId, Overlap, RequestId, RequestStatus, ScheduleId, ScheduleKind, ScheduleRow, SessionId,
    TraceContext,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ToolError;

/// The engine, as the tools of one running request see it: whatever is done is done in the name of that request and under
/// the rules that hold for it. Every error is a refusal for the model.
#[async_trait]
pub trait EngineAccess: Send + Sync {
    /// Publishes an event; answers how many requests it makes. An event that is there already is not published again.
    async fn publish(&self, event: NewEvent) -> Result<u64, ToolError>;

    /// Creates a schedule of the agent itself or of one that it may call; one with the same id is replaced.
    async fn put_schedule(&self, schedule: NewSchedule) -> Result<ScheduleRow, ToolError>;

    /// Level below the outermost request on which an agent stands that is called from here.
    fn depth(&self) -> u32;

    /// Who made the schedules of this agent, as their rows say it.
    fn maker(&self) -> String;

    /// The agents that run and that the agent may call, by address.
    async fn agents(&self) -> Result<Vec<KnownAgent>, ToolError>;

    /// Starts a request of another agent that goes on by itself. One that exists already is not started again.
    async fn spawn(&self, spawn: NewSpawn) -> Result<Spawned, ToolError>;

    /// What an agent of another installation is told of who calls it; checked before it is.
    fn call_chain(&self) -> Result<CallChain, ToolError>;

    /// Cancels a request that this conversation spawned; answers how it stands.
    async fn cancel_spawned(&self, id: RequestId) -> Result<RequestStatus, ToolError>;
}

/// Where a call of an agent stands among others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallChain {
    /// How many agents stand above the callee.
    pub depth: u32,
    /// The trace, with the calling request as its parent.
    pub trace: TraceContext,
}

/// An event to publish in the namespace of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewEvent {
    /// The event.
    pub event_id: EventId,
    /// What it is about.
    pub topic: String,
    /// What is to be known of it.
    pub payload: Value,
}

/// A schedule to create.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewSchedule {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Unique within its namespace.
    pub name: String,
    /// The agent that it invokes, `[NAMESPACE/]NAME[?alias=ALIAS]`; the calling one where absent.
    pub agent: Option<String>,
    /// What the agent is sent.
    pub input: Value,
    /// When.
    pub kind: ScheduleKind,
    /// What happens to a fire while an earlier one runs.
    pub overlap: Overlap,
    /// Whether its requests go on with the present conversation.
    pub same_session: bool,
}

/// An agent that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownAgent {
    /// How it is called: `NAMESPACE/NAME`, with `?alias=` where that is not `stable`.
    pub address: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// What it can do: names and descriptions of its tools.
    pub skills: Vec<(String, String)>,
}

/// A request to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewSpawn {
    /// The request.
    pub request_id: RequestId,
    /// The call that starts it.
    pub call_id: String,
    /// The agent, `[NAMESPACE/]NAME[?alias=ALIAS]`.
    pub agent: String,
    /// What it is told.
    pub input: Value,
}

/// A request that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawned {
    /// The request.
    pub request_id: RequestId,
    /// Its session.
    pub session_id: SessionId,
}
