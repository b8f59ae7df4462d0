//! The run journal: everything that happens to a request, in the order it was
//! committed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ApprovalAnswer, ApprovalQuestion, AuditId, AuditVerdict, Billed, Block, Compaction, Cost,
    DeploymentId, ForkOrigin, Message, ModelCall, PromptMeasure, PromptParts, ReplicaId, RequestId,
    RequestStatus, Role, Settlement, StopReason, StoredImage, Timestamp, Usage,
};

use crate::message::handle;

/// Code of the notice that tells the model, and the reader, in which way an answer does
/// not match the agent's `output_schema`. It is part of the conversation: the model
/// answers it.
pub const OUTPUT_REPAIR: &str = "output_repair";

/// A committed line of a request's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The request.
    pub request_id: RequestId,
    /// Position in the journal: 1 for the first, without gaps. It is the id of
    /// the SSE event.
    pub seq: u64,
    /// When the command that wrote it was made.
    pub at: Timestamp,
    /// What happened. Not flattened: bodies name requests, too.
    pub body: EntryBody,
}

/// What happened. The tag is the stored name; it is never renamed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EntryBody {
    /// The request was accepted. Always the first entry, written by
    /// [`crate::AcceptRequest`].
    Accepted {
        /// The input as the caller sent it.
        input: Value,
        /// The request that it is a fork of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        forked_from: Option<Box<ForkOrigin>>,
    },
    /// A replica took the request. More than one of these means that it was
    /// taken up again after a crash.
    Started {
        /// The replica.
        replica_id: ReplicaId,
        /// The deployment the replica belongs to.
        deployment_id: DeploymentId,
        /// 1 for the first.
        attempt: u32,
    },
    /// The model answered.
    ModelReply(ModelReply),
    /// The older part of the conversation was replaced by a summary in what the model is shown.
    Compacted(Box<Compaction>),
    /// A component asked a model, and this is what it was told. It is no part of the conversation.
    ModelAsked(Box<ModelAsk>),
    /// What a component does that is part of the conversation: the tools it calls, or its answer.
    ComponentTurn(ComponentTurn),
    /// A component was told of its tools, where others decide which there are.
    ToolsListed {
        /// The tools.
        tools: Vec<ListedTool>,
    },
    /// A model call failed and the engine goes on with another provider or gives up.
    ModelFailed {
        /// The model turn, from 1.
        step: u32,
        /// The provider that failed.
        provider: String,
        /// The model id that was asked for.
        model: String,
        /// Why.
        failure: Failure,
        /// The provider that is asked next, if there is one.
        next_provider: Option<String>,
    },
    /// A tool is about to run. It runs only after this entry is committed.
    ToolIntent(ToolIntent),
    /// A tool has had a model do something. It is no part of the conversation, and is committed before the tool is told.
    ModelCalled(Box<ToolModelCall>),
    /// A tool ran, failed, or was not run; the outcome is what the model is told.
    ToolResult(ToolOutcome),
    /// Policy decided about something the request wants to do. An audit row is projected
    /// from it.
    PolicyVerdict(PolicyVerdict),
    /// A person is asked whether a call may run. Once the other calls of the turn have
    /// ended the request is parked until every question is answered.
    ApprovalAsked(ApprovalQuestion),
    /// A question was answered. Written by [`crate::DecideApproval`].
    ApprovalGiven(ApprovalAnswer),
    /// A tool call invoked another agent.
    AgentCalled {
        /// The id of the call in the model's reply.
        call_id: String,
        /// The callee: `namespace/name`, or a URL.
        agent: String,
        /// The callee's request, where it runs here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<RequestId>,
        /// How many agents stand between it and the outermost caller, 1 for the first.
        depth: u32,
    },
    /// An agent of another installation has taken up what a call, or a step of a workflow, told it.
    RemoteTask {
        /// The id of the call in the model's reply, or the step.
        call_id: String,
        /// The callee: a URL.
        agent: String,
        /// What the callee calls it.
        task_id: String,
        /// The conversation, as the callee calls it; empty where it does not name one.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        context_id: String,
    },
    /// A step of a workflow is about to call its agent.
    StepStarted {
        /// The step.
        step: String,
        /// 1 for the first.
        attempt: u32,
        /// The callee's request.
        request_id: RequestId,
    },
    /// A step of a workflow ended, or is not run.
    StepFinished(StepOutcome),
    /// Something the reader of the journal should know; the model is told only with
    /// [`OUTPUT_REPAIR`].
    Notice {
        /// A stable word for programs, such as `loop_detected`.
        code: String,
        /// For a person.
        message: String,
    },
    /// Somebody asked for the request to be cancelled.
    CancelRequested {
        /// Who or why, for a person.
        reason: String,
    },
    /// The request ended. Always the last entry.
    Finished {
        /// One of the terminal states.
        status: RequestStatus,
        /// What the agent answered; absent unless completed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
        /// Why it did not complete.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
        /// Tokens of the whole request.
        usage: Usage,
        /// What they cost.
        #[serde(default)]
        cost: Cost,
    },
}

impl EntryBody {
    /// Code of the notice that stands before a reply that ends because the model reached its output limit.
    pub const OUTPUT_TRUNCATED: &'static str = "output_truncated";
    /// Code of the notice that stands before a reply in which the model, or its provider, declines to answer.
    pub const REFUSED: &'static str = "refused";

    /// Whether nothing follows it.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Finished { .. })
    }

    /// The stored name of the kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Started { .. } => "started",
            Self::ModelReply(_) => "model_reply",
            Self::Compacted(_) => "compacted",
            Self::ModelAsked(_) => "model_asked",
            Self::ComponentTurn(_) => "component_turn",
            Self::ToolsListed { .. } => "tools_listed",
            Self::ModelFailed { .. } => "model_failed",
            Self::ToolIntent(_) => "tool_intent",
            Self::ModelCalled(_) => "model_called",
            Self::ToolResult(_) => "tool_result",
            Self::PolicyVerdict(_) => "policy_verdict",
            Self::ApprovalAsked(_) => "approval_asked",
            Self::ApprovalGiven(_) => "approval_given",
            Self::AgentCalled { .. } => "agent_called",
            Self::RemoteTask { .. } => "remote_task",
            Self::StepStarted { .. } => "step_started",
            Self::StepFinished(_) => "step_finished",
            Self::Notice { .. } => "notice",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::Finished { .. } => "finished",
        }
    }

    /// How well the prompt was estimated that a model answered here.
    #[must_use]
    pub const fn measure(&self) -> Option<PromptMeasure> {
        match self {
            Self::ModelReply(reply) => Some(reply.measure()),
            _ => None,
        }
    }

    /// What a model answered here, whoever asked it.
    #[must_use]
    pub fn reply(&self) -> Option<&ModelReply> {
        match self {
            Self::ModelReply(reply) => Some(reply),
            Self::ModelAsked(ask) => ask.reply.as_ref(),
            _ => None,
        }
    }

    /// What the agent says here that is part of the conversation: text, and the calls that it makes.
    #[must_use]
    pub fn said(&self) -> Option<&[Block]> {
        match self {
            Self::ModelReply(reply) => Some(&reply.blocks),
            Self::ComponentTurn(turn) => Some(&turn.blocks),
            _ => None,
        }
    }

    /// The compaction that it is.
    #[must_use]
    pub const fn compaction(&self) -> Option<&Compaction> {
        match self {
            Self::Compacted(compaction) => Some(compaction),
            _ => None,
        }
    }

    /// The call of a model that it stands for, as the ledger counts it.
    #[must_use]
    pub fn billed(&self) -> Option<Billed<'_>> {
        match self {
            Self::ModelReply(reply) => Some(reply.billed()),
            Self::ModelAsked(ask) => ask.reply.as_ref().map(ModelReply::billed),
            Self::Compacted(compaction) => compaction.call.as_ref().map(|call| Billed {
                provider: &call.provider,
                model: &call.model,
                usage: &call.usage,
                cost_micro_usd: call.cost_micro_usd,
                settlement: Settlement::of(&call.usage, call.cost_micro_usd),
            }),
            Self::ModelCalled(called) => Some(called.billed()),
            _ => None,
        }
    }

    /// The message that the session's history shows for this entry, if it shows
    /// one. `tool` is the name by which the model called the tool of a result.
    #[must_use]
    pub fn into_message(self, tool: Option<String>) -> Option<Message> {
        match self {
            Self::Accepted { input, .. } => Some(Message::from_input(&input)),
            Self::Notice { code, message } if code == OUTPUT_REPAIR => Some(Message::user(message)),
            Self::ModelReply(reply) => Some(Message {
                role: Role::Assistant,
                blocks: reply.blocks,
            }),
            Self::ComponentTurn(turn) => Some(Message {
                role: Role::Assistant,
                blocks: turn.blocks,
            }),
            Self::Compacted(compaction) => Some(Message::user(compaction.text())),
            Self::ToolResult(outcome) => Some(Message {
                role: Role::Tool,
                blocks: vec![Block::ToolResult {
                    call_id: outcome.call_id,
                    name: tool.unwrap_or(outcome.tool),
                    content: outcome.content,
                    images: outcome.images.into_iter().map(Into::into).collect(),
                    is_error: outcome.failure.is_some(),
                }],
            }),
            _ => None,
        }
    }
}

/// One finished answer of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelReply {
    /// The model turn, from 1.
    pub step: u32,
    /// The provider that answered, as named in the Runefile.
    pub provider: String,
    /// The model id the provider was asked for.
    pub model: String,
    /// What it said.
    pub blocks: Vec<Block>,
    /// Why it stopped.
    pub stop: StopReason,
    /// Tokens of this call.
    pub usage: Usage,
    /// What filled the prompt.
    #[serde(default)]
    pub prompt: PromptParts,
    /// What they cost in millionths of a US dollar; absent where the model has no known price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micro_usd: Option<u64>,
    /// From sending the call to its end, in milliseconds.
    pub duration_ms: u64,
}

impl ModelReply {
    /// The call, as the ledger counts it.
    fn billed(&self) -> Billed<'_> {
        Billed {
            provider: self.provider.as_str(),
            model: self.model.as_str(),
            usage: &self.usage,
            cost_micro_usd: self.cost_micro_usd,
            settlement: Settlement::of(&self.usage, self.cost_micro_usd),
        }
    }

    /// How well the prompt was estimated.
    #[must_use]
    pub const fn measure(&self) -> PromptMeasure {
        PromptMeasure {
            estimated: self.prompt.total(),
            reported: self.usage.input_tokens,
        }
    }
}

/// A model that a component asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelAsk {
    /// The model turn, from 1.
    pub step: u32,
    /// SHA-256, in hexadecimal, of what the component asked. A component that is run again asks the same.
    pub request: String,
    /// What the model said, where it did; no blocks of one that is too large to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<ModelReply>,
    /// What the component was told instead: where it was no question that can be asked, no model answered or what it said
    /// cannot be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// What a component does that is part of the conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComponentTurn {
    /// The turn of the component, from 1.
    pub turn: u32,
    /// Tool calls that it makes at once, or the text of its answer.
    pub blocks: Vec<Block>,
}

/// A tool that a component was told of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListedTool {
    /// By which it is called.
    pub name: String,
    /// When and how to use it.
    pub description: String,
    /// JSON Schema of the input.
    pub input_schema: Value,
}

/// A tool call that is about to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolIntent {
    /// The model turn, or the turn of the component, that asked for it.
    pub step: u32,
    /// The id of the call there.
    pub call_id: String,
    /// The tool's name in the package, such as `rune@file-read`.
    pub tool: String,
    /// The validated input.
    pub input: Value,
    /// Whether the tool may be run again after an unknown outcome.
    pub idempotent: bool,
    /// The same for every run of this call; handed to the tool.
    pub idempotency_key: String,
}

/// A model that a tool had do something, and that has answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolModelCall {
    /// The model turn, or the turn of the component, that asked for the tool.
    pub step: u32,
    /// The id of the tool's call there.
    pub call_id: String,
    /// The model's call.
    pub call: ModelCall,
    /// Whether the provider has counted what it used. Where it has not, all that was reserved for it is spent.
    pub counted: bool,
}

impl ToolModelCall {
    /// The call, as the ledger counts it.
    fn billed(&self) -> Billed<'_> {
        let call = &self.call;
        Billed {
            provider: &call.provider,
            model: &call.model,
            usage: &call.usage,
            cost_micro_usd: call.cost_micro_usd,
            settlement: if self.counted {
                Settlement::of(&call.usage, call.cost_micro_usd)
            } else {
                Settlement::Unknown
            },
        }
    }
}

/// How a tool call ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolOutcome {
    /// The model turn that asked for it.
    pub step: u32,
    /// The id of the call in the model's reply.
    pub call_id: String,
    /// The tool's name in the package; the name the model used where no tool has it.
    pub tool: String,
    /// The output, where the tool succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// Why not, where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What the model is shown; a shortened form of a long output says so.
    pub content: String,
    /// Where the whole output is, where it was too large to be shown and is not in `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spilled: Option<SpilledOutput>,
    /// Images that the model is shown beside the content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<StoredImage>,
    /// From start to end, in milliseconds; 0 where the tool was not run.
    pub duration_ms: u64,
    /// How often it was run: more than 1 after retries, 0 where it was not run.
    pub attempts: u32,
}

impl ToolOutcome {
    /// What of it is in the [`BlobStore`](crate::BlobStore) and can be named by a handle within the session.
    pub fn kept(&self) -> impl Iterator<Item = SpilledOutput> + '_ {
        let images = self.images.iter().map(|image| SpilledOutput {
            handle: image.handle(),
            digest: image.digest.clone(),
            bytes: image.bytes,
        });
        self.spilled.iter().cloned().chain(images)
    }
}

/// An output, or an image of one, that is kept in the [`BlobStore`](crate::BlobStore).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpilledOutput {
    /// By what the model and the reader name it: unique within the session.
    pub handle: String,
    /// Of the bytes.
    pub digest: String,
    /// How many they are.
    pub bytes: u64,
}

impl SpilledOutput {
    /// An output that is kept under `digest`.
    #[must_use]
    pub fn new(digest: String, bytes: u64) -> Self {
        Self {
            handle: handle("out-", &digest),
            digest,
            bytes,
        }
    }
}

/// How a step of a workflow ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepOutcome {
    /// The step.
    pub step: String,
    /// Whether it ran and how that ended.
    pub status: StepStatus,
    /// What its agent answered, where it completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// Why not, where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// From its first start to its end, in milliseconds; 0 where it did not run.
    pub duration_ms: u64,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Its agent answered.
    Completed,
    /// Its condition was false, or everything it depends on was skipped.
    Skipped,
    /// It has no output.
    Failed,
}

/// What policy decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVerdict {
    /// The audit row it becomes.
    pub audit_id: AuditId,
    /// The model turn it belongs to.
    pub step: u32,
    /// The id of the call in the model's reply, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// What was to be done: `tool`, `model`, `agent_call` or `egress`. The kind of the
    /// audit row.
    pub action: String,
    /// To what, such as the tool's name.
    pub resource: String,
    /// What policies can see of the resource: enough to decide again. Absent for a tool, of which the call says it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub attributes: Value,
    /// What was decided.
    pub verdict: AuditVerdict,
    /// What the policies said, where something else counted: a remembered decision, or
    /// that the request cannot wait for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_policy: Option<AuditVerdict>,
    /// Why, for a person.
    pub reason: String,
    /// The policies that decided, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
}

/// A failure as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub code: ErrorCode,
    /// For the caller. Holds no secret and no internal detail.
    pub message: String,
}

impl Failure {
    /// A failure with this code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// The closed list of error codes. Each maps to one HTTP status, one exit code and
/// one metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The input or a parameter is wrong.
    InvalidInput,
    /// No or wrong credentials.
    Unauthenticated,
    /// Not allowed.
    Denied,
    /// Does not exist.
    NotFound,
    /// Contradicts the present state.
    Conflict,
    /// Larger than a limit.
    TooLarge,
    /// A budget, cap or rate was reached.
    LimitExceeded,
    /// Somebody cancelled it.
    Cancelled,
    /// A fault of Rune or of a tool.
    Internal,
    /// No model provider answered.
    ModelUnavailable,
    /// Cannot be served now.
    Unavailable,
    /// A time limit was reached.
    Timeout,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::InvalidInput,
        Self::Unauthenticated,
        Self::Denied,
        Self::NotFound,
        Self::Conflict,
        Self::TooLarge,
        Self::LimitExceeded,
        Self::Cancelled,
        Self::Internal,
        Self::ModelUnavailable,
        Self::Unavailable,
        Self::Timeout,
    ];

    /// The stable word, as in the error body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::LimitExceeded => "limit_exceeded",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
            Self::ModelUnavailable => "model_unavailable",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
        }
    }

    /// The HTTP status of the error body.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidInput => 400,
            Self::Unauthenticated => 401,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::LimitExceeded => 429,
            Self::Cancelled => 499,
            Self::Internal => 500,
            Self::ModelUnavailable => 502,
            Self::Unavailable => 503,
            Self::Timeout => 504,
        }
    }
}
