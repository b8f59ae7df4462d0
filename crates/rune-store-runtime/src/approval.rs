//! Approvals: a person decides whether a tool call may run.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ApprovalId, RequestId, SessionId, Timestamp};

/// What a person, or the deadline, says to a tool call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalDecision {
    /// It may run.
    Approve,
    /// It may not; the model is told.
    Deny,
}

impl ApprovalDecision {
    /// All decisions.
    pub const ALL: [Self; 2] = [Self::Approve, Self::Deny];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
        }
    }

    /// The decision with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.as_str() == text)
    }
}

/// For which later calls a decision counts too: those that the same policies ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remember {
    /// Those of the same session.
    Session,
    /// Those of the same agent, in every session.
    Agent,
}

impl Remember {
    /// All scopes.
    pub const ALL: [Self; 2] = [Self::Session, Self::Agent];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Agent => "agent",
        }
    }

    /// The scope with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

/// A question that is put to a person; also the journal entry that parks the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalQuestion {
    /// The approval.
    pub approval_id: ApprovalId,
    /// The model turn that asked for the call.
    pub step: u32,
    /// The id of the call in the model's reply.
    pub call_id: String,
    /// The tool's name in the package.
    pub tool: String,
    /// The validated input.
    pub input: Value,
    /// Why a person is asked.
    pub reason: String,
    /// The policies that ask, in their order; what a remembered decision is about.
    pub policies: Vec<String>,
    /// When the default counts; never where absent.
    pub deadline: Option<Timestamp>,
    /// What counts at the deadline.
    pub default: ApprovalDecision,
}

/// An answer; also the journal entry that lets the request go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalAnswer {
    /// The approval.
    pub approval_id: ApprovalId,
    /// The id of the call in the model's reply.
    pub call_id: String,
    /// What was decided.
    pub decision: ApprovalDecision,
    /// Who decided: a caller, or `deadline`.
    pub by: String,
    /// For which later calls it counts too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remember: Option<Remember>,
    /// For a person, and for the model where the call was denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Answers a waiting approval: writes the `approval_given` entry and, where it is
/// remembered, the grant, in one commit. Once no approval of the request waits it is
/// `accepted` again and goes on.
///
/// The reply is [`ApprovalRow`]. Rejected with `not_found`; with `conflict` where it
/// was decided before or its request has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecideApproval {
    /// The approval.
    pub approval_id: ApprovalId,
    /// What was decided.
    pub decision: ApprovalDecision,
    /// Who decided.
    pub by: String,
    /// For which later calls it counts too.
    #[serde(default)]
    pub remember: Option<Remember>,
    /// For a person.
    #[serde(default)]
    pub note: Option<String>,
}

/// Where an approval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Nobody has decided.
    Waiting,
    /// The call may run.
    Approved,
    /// The call may not run.
    Denied,
    /// The request ended before anybody decided.
    Withdrawn,
}

impl ApprovalState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Approved, Self::Denied, Self::Withdrawn];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// The state with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

impl From<ApprovalDecision> for ApprovalState {
    fn from(decision: ApprovalDecision) -> Self {
        match decision {
            ApprovalDecision::Approve => Self::Approved,
            ApprovalDecision::Deny => Self::Denied,
        }
    }
}

/// An approval as stored, projected from its question and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRow {
    /// The request that waits.
    pub request_id: RequestId,
    /// Its session.
    pub session_id: SessionId,
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// Where it is.
    pub state: ApprovalState,
    /// The question.
    #[serde(flatten)]
    pub question: ApprovalQuestion,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// When it was decided or withdrawn.
    pub decided_at: Option<Timestamp>,
    /// The answer.
    pub answer: Option<ApprovalAnswer>,
}

/// Which approvals to list, oldest first. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalFilter {
    /// Only of agents in this namespace.
    pub namespace: Option<String>,
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only of this request.
    pub request_id: Option<RequestId>,
    /// Only in this state.
    pub state: Option<ApprovalState>,
    /// Only with a deadline at or before this time.
    pub due_by: Option<Timestamp>,
}

/// Which remembered decision is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantQuery {
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// The session, which may not be stored yet.
    pub session_id: SessionId,
    /// The tool's name in the package.
    pub tool: String,
    /// The policies that ask, in their order.
    pub policies: Vec<String>,
}

/// A remembered decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRow {
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// The session it is limited to.
    pub session_id: Option<SessionId>,
    /// The tool's name in the package.
    pub tool: String,
    /// The policies that asked, in their order.
    pub policies: Vec<String>,
    /// What was decided.
    pub decision: ApprovalDecision,
    /// Who decided.
    pub by: String,
    /// When.
    pub at: Timestamp,
}
