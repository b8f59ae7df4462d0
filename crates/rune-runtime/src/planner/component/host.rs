//! The host of a component: it hands every call to the planner and waits for the answer.

use async_trait::async_trait;
use rune_wasm::{
    AgentFailure, AgentHost, Ask, LogLevel, Reply, RunEnded, ToolCall, ToolDefinition, ToolResult,
    Utterance,
};
use tokio::sync::{mpsc, oneshot};

/// What a component wants, and where it waits for the answer.
pub(super) enum HostCall {
    Ask(Box<Ask>, Answer<Result<Reply, AgentFailure>>),
    Tools(Answer<Vec<ToolDefinition>>),
    Call(Vec<ToolCall>, Answer<Vec<ToolResult>>),
    Memory(String, Answer<Result<Option<String>, AgentFailure>>),
    Remember(String, String, Answer<Result<(), AgentFailure>>),
    Memories(String, Answer<Result<Vec<String>, AgentFailure>>),
    History(Answer<Vec<Utterance>>),
    Emit(String, Answer<()>),
    Log(LogLevel, String, Answer<()>),
}

type Answer<T> = oneshot::Sender<T>;

/// The planner as a component sees it.
pub(super) struct PlannerHost(mpsc::Sender<HostCall>);

impl PlannerHost {
    /// A host, and the calls that come to it.
    pub(super) fn new() -> (Self, mpsc::Receiver<HostCall>) {
        let (calls, received) = mpsc::channel(1);
        (Self(calls), received)
    }

    async fn have<T>(&self, call: impl FnOnce(Answer<T>) -> HostCall) -> Result<T, RunEnded> {
        let (answer, answered) = oneshot::channel();
        self.0.send(call(answer)).await.map_err(|_| RunEnded)?;
        answered.await.map_err(|_| RunEnded)
    }
}

#[async_trait]
impl AgentHost for PlannerHost {
    async fn ask(&self, ask: Ask) -> Result<Result<Reply, AgentFailure>, RunEnded> {
        self.have(|answer| HostCall::Ask(Box::new(ask), answer))
            .await
    }

    async fn tools(&self) -> Result<Vec<ToolDefinition>, RunEnded> {
        self.have(HostCall::Tools).await
    }

    async fn call(&self, calls: Vec<ToolCall>) -> Result<Vec<ToolResult>, RunEnded> {
        self.have(|answer| HostCall::Call(calls, answer)).await
    }

    async fn memory(&self, key: String) -> Result<Result<Option<String>, AgentFailure>, RunEnded> {
        self.have(|answer| HostCall::Memory(key, answer)).await
    }

    async fn remember(
        &self,
        key: String,
        value: String,
    ) -> Result<Result<(), AgentFailure>, RunEnded> {
        self.have(|answer| HostCall::Remember(key, value, answer))
            .await
    }

    async fn memories(
        &self,
        prefix: String,
    ) -> Result<Result<Vec<String>, AgentFailure>, RunEnded> {
        self.have(|answer| HostCall::Memories(prefix, answer)).await
    }

    async fn history(&self) -> Result<Vec<Utterance>, RunEnded> {
        self.have(HostCall::History).await
    }

    async fn emit(&self, text: String) -> Result<(), RunEnded> {
        self.have(|answer| HostCall::Emit(text, answer)).await
    }

    async fn log(&self, level: LogLevel, message: String) -> Result<(), RunEnded> {
        self.have(|answer| HostCall::Log(level, message, answer))
            .await
    }
}
