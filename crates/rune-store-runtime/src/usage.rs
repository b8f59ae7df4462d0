//! The usage ledger: one row per model call, projected from model replies.

use serde::{Deserialize, Serialize};

use crate::{RequestId, Timestamp, Usage};

/// One model call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The request.
    pub request_id: RequestId,
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// The journal entry it is projected from.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// The provider that answered.
    pub provider: String,
    /// The model id.
    pub model: String,
    /// Tokens.
    pub usage: Usage,
}

/// Which rows of the ledger to list, newest first. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageFilter {
    /// Only of this request.
    pub request_id: Option<RequestId>,
    /// Only of agents in this namespace.
    pub namespace: Option<String>,
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only at or after this time.
    pub since: Option<Timestamp>,
}
