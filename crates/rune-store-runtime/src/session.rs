//! Sessions: conversations of one agent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{SessionId, Timestamp};

/// Creates a session without a request. Reply: unit. Rejected with `conflict`
/// where the id is taken by another agent; creating it again for the same agent
/// changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateSession {
    /// The new session.
    pub session_id: SessionId,
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// The caller's own notes.
    #[serde(default)]
    pub metadata: BTreeMap<String, Value>,
}

/// Deletes a session with its messages, requests and their journals. Reply: unit.
/// Rejected with `not_found`, and with `conflict` while one of its requests runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteSession {
    /// The session.
    pub session_id: SessionId,
}

/// A session as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The session.
    pub id: SessionId,
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// The caller's own notes.
    pub metadata: BTreeMap<String, Value>,
    /// Messages in its history.
    pub messages: u64,
    /// Requests so far.
    pub requests: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When something was last written to it.
    pub updated_at: Timestamp,
}

/// Which sessions to list, newest first. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionFilter {
    /// Only of agents in this namespace.
    pub namespace: Option<String>,
    /// Only of this agent.
    pub agent: Option<String>,
}
