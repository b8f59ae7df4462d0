//! Requests: one invocation of an agent each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    BudgetCap, Cost, DeploymentId, EntryBody, Failure, Fork, ReplicaId, RequestId, SessionId,
    Timestamp, Usage, VersionId,
};

/// Where a request is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestStatus {
    /// Committed, waiting for a replica.
    Accepted,
    /// On a replica.
    Running,
    /// Parked until a person decides.
    InputRequired,
    /// Ended with an output.
    Completed,
    /// Ended without one.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
}

impl RequestStatus {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Running,
        Self::InputRequired,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Whether the request has ended.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::InputRequired => "input-required",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// When journal entries become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointPolicy {
    /// At every boundary: accept, intent, result, finish.
    #[default]
    EachStep,
    /// At accept and finish; what lies between is written with the finish.
    OnFinish,
    /// Never; the request lives in memory and a crash loses it.
    Never,
}

/// A caller's key that makes accepting a request idempotent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// Who may share the key: the caller and the agent.
    pub scope: String,
    /// The key as sent.
    pub key: String,
    /// Hash of the request body; the same key with another body is a conflict.
    pub fingerprint: String,
}

/// Accepts a request: writes its row, its first journal entry (`accepted`), the
/// session where it is new, and the user message, in one commit.
///
/// The reply is [`Accepted`]. Rejected with `conflict` where the session belongs
/// to another agent or the idempotency key was used with another body, with `superseded` where
/// `follows` is not the newest request of the session; for a fork also with `conflict` where its
/// session exists, and with `invalid` where what it takes over has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AcceptRequest {
    /// The new request.
    pub request_id: RequestId,
    /// The session; created where it does not exist.
    pub session_id: SessionId,
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// The deployment that serves it.
    pub deployment_id: DeploymentId,
    /// The version it is pinned to.
    pub version_id: VersionId,
    /// The input as the caller sent it.
    pub input: Value,
    /// The caller's own notes; returned, never interpreted.
    #[serde(default)]
    pub metadata: BTreeMap<String, Value>,
    /// Who asked, as authenticated; `anonymous` where nobody is asked.
    pub caller: String,
    /// When its journal entries become durable.
    pub checkpoint: CheckpointPolicy,
    /// The caller's idempotency key.
    #[serde(default)]
    pub idempotency: Option<IdempotencyKey>,
    /// The request that has to be the newest one of the session; whichever it is where absent. Not
    /// looked at where the idempotency key finds an earlier request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<RequestId>,
    /// The tool call of another request that makes this one.
    #[serde(default)]
    pub parent: Option<ParentCall>,
    /// The request that it begins with a part of. Its session is a new one then, and shows the
    /// messages that the session of that request showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<Box<Fork>>,
    /// The budgets that its model calls are counted against and share with others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetCap>,
}

/// The tool call that made a request, and where it stands in the tree of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentCall {
    /// The calling request.
    pub request_id: RequestId,
    /// The id of the call in it.
    pub call_id: String,
    /// The outermost request; budgets are counted over its whole tree.
    pub root_id: RequestId,
    /// How many agents stand between this one and the outermost caller, from 1.
    pub depth: u32,
}

/// Reply to [`AcceptRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The request: the new one, or the one accepted earlier under the same key.
    pub request_id: RequestId,
    /// Its session.
    pub session_id: SessionId,
    /// Whether an earlier request answers the same idempotency key; nothing was
    /// written then.
    pub duplicate: bool,
}

/// Adds entries to a request's journal and updates every projection in the same
/// commit: status, usage ledger, messages, tool invocations. A model reply settles the
/// request's reservation, the end one that is left (see [`crate::ReserveBudget`]).
///
/// The reply is [`Appended`]. Rejected with `request_ended` after the `finished`
/// entry; with `invalid` where an entry would break the journal (a result without
/// its call, `accepted` twice).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppendEntries {
    /// The request.
    pub request_id: RequestId,
    /// The entries, in order; at least one.
    pub entries: Vec<EntryBody>,
}

/// Reply to [`AppendEntries`] and [`RequestCancel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Sequence number of the first entry written; `last_seq + 1` where none was.
    pub first_seq: u64,
    /// Sequence number of the journal's last entry.
    pub last_seq: u64,
    /// State of the request now.
    pub status: RequestStatus,
    /// Whether somebody asked for the request to be cancelled.
    pub cancel_requested: bool,
}

/// Asks for a request to be cancelled: writes a `cancel_requested` entry once.
/// Asking again, or after the end, changes nothing and is no error.
///
/// The reply is [`Appended`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCancel {
    /// The request.
    pub request_id: RequestId,
    /// Who or why, for a person.
    pub reason: String,
}

/// A request as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestRow {
    /// The request.
    pub id: RequestId,
    /// Its session.
    pub session_id: SessionId,
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// The deployment that serves it.
    pub deployment_id: DeploymentId,
    /// The version it is pinned to.
    pub version_id: VersionId,
    /// The replica that last took it.
    pub replica_id: Option<ReplicaId>,
    /// Where it is in its life.
    pub status: RequestStatus,
    /// How often a replica took it.
    pub attempts: u32,
    /// Whether somebody asked for it to be cancelled.
    pub cancel_requested: bool,
    /// Who asked.
    pub caller: String,
    /// The caller's own notes.
    pub metadata: BTreeMap<String, Value>,
    /// When its journal entries become durable.
    pub checkpoint: CheckpointPolicy,
    /// The tool call of another request that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentCall>,
    /// The budgets that its model calls are counted against and share with others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetCap>,
    /// Sequence number of the last journal entry.
    pub last_seq: u64,
    /// The answer, once completed.
    pub output: Option<Value>,
    /// Why it did not complete.
    pub failure: Option<Failure>,
    /// Tokens so far.
    pub usage: Usage,
    /// What they cost.
    pub cost: Cost,
    /// Model calls so far.
    pub model_calls: u32,
    /// Tool calls so far.
    pub tool_calls: u32,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When the last entry was committed.
    pub updated_at: Timestamp,
}

/// In which order requests are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestOrder {
    /// The one that was accepted last first.
    #[default]
    Newest,
    /// The one that changed last first. Those of a caller and an agent that have ended are read in this
    /// order; whatever goes on is looked at.
    Changed,
}

/// Which requests to list, in which order. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestFilter {
    /// Only of agents in this namespace.
    pub namespace: Option<String>,
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only of this session.
    pub session_id: Option<SessionId>,
    /// Only of this deployment.
    pub deployment_id: Option<DeploymentId>,
    /// Only those below this outermost request.
    pub root_id: Option<RequestId>,
    /// Only in one of these states.
    pub statuses: Vec<RequestStatus>,
    /// Only those whose cancel was asked for, or was not.
    pub cancel_requested: Option<bool>,
    /// Only of this caller.
    pub caller: Option<String>,
    /// Only those that changed then or later.
    pub changed_since: Option<Timestamp>,
    /// In which order.
    pub order: RequestOrder,
}
