//! Request events: what a client of a request sees, over SSE or in process.

mod mapper;

use rune_store_runtime::{
    ApprovalDecision, ApprovalId, AuditVerdict, Cost, ErrorCode, Failure, ModelCall, Replaced,
    RequestId, RequestStatus, SessionId, SpilledOutput, StepStatus, StoredImage, Timestamp, Usage,
};
use serde::Serialize;
use serde_json::Value;

pub(crate) use mapper::EventMapper;

/// An entry of a request that was forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ForkPoint {
    /// The request.
    pub request_id: RequestId,
    /// The last entry that was taken over.
    pub seq: u64,
}

/// An event. The variant names and fields are those of the SSE events of the public
/// API; [`RequestEvent::name`] is the event name.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RequestEvent {
    /// The request is committed.
    Accepted {
        /// The request.
        request_id: RequestId,
        /// Its session.
        session_id: SessionId,
        /// The request that it is a fork of.
        #[serde(skip_serializing_if = "Option::is_none")]
        forked_from: Option<ForkPoint>,
    },
    /// A replica took the request.
    Started {
        /// 1 for the first time, more after a crash.
        attempt: u32,
    },
    /// More of the answer.
    Token {
        /// The text.
        text: String,
    },
    /// More of the reasoning.
    Reasoning {
        /// The text.
        text: String,
    },
    /// A tool is about to run.
    ToolStart {
        /// The id of the call.
        id: String,
        /// The tool's name in the package.
        name: String,
        /// Its input.
        input: Value,
    },
    /// How far a tool call is, as the tool says; live only.
    ToolProgress {
        /// The id of the call.
        id: String,
        /// The tool's name in the package.
        name: String,
        /// Rises with every report.
        progress: f64,
        /// What it rises to.
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<f64>,
        /// For a person.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// A tool call has ended.
    ToolDone {
        /// The id of the call.
        id: String,
        /// The tool's name in the package.
        name: String,
        /// The output, where it succeeded; of one that was spilled what the model is shown.
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
        /// Where the whole output is, where it was too large to be shown.
        #[serde(skip_serializing_if = "Option::is_none")]
        spilled: Option<Box<SpilledOutput>>,
        /// Images that the model is shown beside the output; they are in the object store.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        images: Vec<StoredImage>,
        /// Why not, where it did not.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
        /// How long it ran, in milliseconds.
        duration_ms: u64,
    },
    /// A model has answered a tool.
    ModelCalled {
        /// The id of the tool's call.
        id: String,
        /// The model's call.
        call: Box<ModelCall>,
        /// Whether the provider has counted what it used.
        counted: bool,
    },
    /// A model call has ended.
    Usage {
        /// The model turn, from 1.
        step: u32,
        /// The provider that answered.
        provider: String,
        /// The model id.
        model: String,
        /// Tokens of the call.
        #[serde(flatten)]
        usage: Usage,
        /// What they cost in millionths of a US dollar; `null` where the model has no
        /// known price.
        cost_micro_usd: Option<u64>,
    },
    /// A component has called tools, or has answered.
    ComponentTurn {
        /// The turn of the component, from 1.
        turn: u32,
    },
    /// A component was told of its tools.
    ToolsListed {
        /// Their names.
        tools: Vec<String>,
    },
    /// No model answered a component.
    ModelUnanswered {
        /// The model turn, from 1.
        step: u32,
        /// What the component was told.
        error: Failure,
    },
    /// The older part of the conversation was replaced by a summary in what the model is
    /// shown.
    Compacted {
        /// What it stands for.
        replaces: Replaced,
        /// What the model is shown in its place.
        summary: String,
        /// Tokens of the prompt without it, estimated.
        tokens_before: u64,
        /// Tokens of the prompt with it, estimated.
        tokens_after: u64,
        /// The model call that wrote it.
        #[serde(skip_serializing_if = "Option::is_none")]
        call: Option<Box<ModelCall>>,
    },
    /// A model call failed.
    ModelFailed {
        /// The provider that failed.
        provider: String,
        /// Why.
        error: Failure,
        /// The provider that is asked next.
        #[serde(skip_serializing_if = "Option::is_none")]
        next_provider: Option<String>,
    },
    /// Policy decided.
    PolicyVerdict {
        /// What was to be done.
        action: String,
        /// To what.
        resource: String,
        /// What was decided.
        verdict: AuditVerdict,
        /// Why.
        reason: String,
    },
    /// A person is asked.
    ApprovalRequired {
        /// The approval.
        approval_id: ApprovalId,
        /// The id of the call.
        id: String,
        /// The tool's name in the package.
        tool: String,
        /// Its input.
        input: Value,
        /// Why a person is asked.
        reason: String,
        /// When the default counts.
        #[serde(skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
    },
    /// A person, or the deadline, has decided.
    ApprovalGiven {
        /// The approval.
        approval_id: ApprovalId,
        /// What was decided.
        decision: ApprovalDecision,
        /// Who decided.
        by: String,
        /// What was said of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A tool call invoked another agent.
    AgentCall {
        /// The id of the call.
        id: String,
        /// The callee.
        agent: String,
        /// The callee's request.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<RequestId>,
        /// How many agents stand between it and the outermost caller.
        depth: u32,
    },
    /// An agent of another installation has taken up what it was told.
    RemoteTask {
        /// The id of the call, or the step.
        id: String,
        /// The callee.
        agent: String,
        /// What the callee calls it.
        task_id: String,
        /// The conversation, as the callee calls it.
        #[serde(skip_serializing_if = "String::is_empty")]
        context_id: String,
    },
    /// A step of a workflow calls its agent.
    StepStarted {
        /// The step.
        step: String,
        /// 1 for the first.
        attempt: u32,
        /// The callee's request.
        request_id: RequestId,
    },
    /// A step of a workflow ended, or is not run.
    StepFinished {
        /// The step.
        step: String,
        /// Whether it ran and how that ended.
        status: StepStatus,
        /// What its agent answered.
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
        /// Why it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
        /// How long it ran, in milliseconds.
        duration_ms: u64,
    },
    /// Something worth knowing.
    Notice {
        /// For programs.
        code: String,
        /// For a person.
        message: String,
    },
    /// Somebody asked for the request to be cancelled.
    CancelRequested {
        /// Who or why.
        reason: String,
    },
    /// The request completed. The last event.
    Done {
        /// The request.
        request_id: RequestId,
        /// Its session.
        session_id: SessionId,
        /// The answer.
        output: Value,
        /// `completed`.
        status: RequestStatus,
        /// Tokens of the whole request.
        usage: Usage,
        /// What they cost.
        cost: Cost,
    },
    /// The request did not complete. The last event.
    Error {
        /// The request.
        request_id: RequestId,
        /// Its session.
        session_id: SessionId,
        /// For programs.
        code: ErrorCode,
        /// For a person.
        message: String,
        /// `failed` or `cancelled`.
        status: RequestStatus,
        /// Tokens of the whole request.
        usage: Usage,
        /// What they cost.
        cost: Cost,
    },
}

impl RequestEvent {
    /// The name of the SSE event.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Started { .. } => "started",
            Self::Token { .. } => "token",
            Self::Reasoning { .. } => "reasoning",
            Self::ToolStart { .. } => "tool_start",
            Self::ToolProgress { .. } => "tool_progress",
            Self::ToolDone { .. } => "tool_done",
            Self::ModelCalled { .. } => "model_called",
            Self::Usage { .. } => "usage",
            Self::ComponentTurn { .. } => "component_turn",
            Self::ToolsListed { .. } => "tools_listed",
            Self::ModelUnanswered { .. } => "model_unanswered",
            Self::Compacted { .. } => "compacted",
            Self::ModelFailed { .. } => "model_failed",
            Self::PolicyVerdict { .. } => "policy_verdict",
            Self::ApprovalRequired { .. } => "approval_required",
            Self::ApprovalGiven { .. } => "approval_given",
            Self::AgentCall { .. } => "agent_call",
            Self::RemoteTask { .. } => "remote_task",
            Self::StepStarted { .. } => "step_started",
            Self::StepFinished { .. } => "step_finished",
            Self::Notice { .. } => "notice",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::Done { .. } => "done",
            Self::Error { .. } => "error",
        }
    }

    /// Whether no event follows.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Error { .. })
    }
}

/// An event with the journal sequence number it stands for; live deltas have none.
#[derive(Debug, Clone, PartialEq)]
pub struct SequencedEvent {
    /// The id of the SSE event.
    pub seq: Option<u64>,
    /// When that entry was committed.
    pub at: Option<Timestamp>,
    /// The event.
    pub event: RequestEvent,
}
