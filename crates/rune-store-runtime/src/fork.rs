//! Forks: requests that begin with the journal of another one.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Cost, RequestId, SessionId, Timestamp, Usage};

/// Where a forked request comes from and in what it differs. Kept in its `accepted` entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForkOrigin {
    /// The request whose journal it begins with.
    pub request_id: RequestId,
    /// The last entry that was taken over: the entries 2 to `seq` are copies of its entries.
    pub seq: u64,
    /// Whom a component of it takes itself for.
    pub identity: Identity,
    /// Tokens of the model calls that were taken over. They are spent by the origin and not by the fork.
    pub usage: Usage,
    /// What they cost.
    pub cost: Cost,
    /// Model calls that were taken over.
    pub model_calls: u32,
    /// Tool calls that were taken over.
    pub tool_calls: u32,
    /// What the agent of the fork does not share with the deployed one.
    #[serde(default, skip_serializing_if = "ForkChanges::is_empty")]
    pub changes: ForkChanges,
}

/// A request as its component knows it. Random numbers and the time follow from it, so that a fork, and a fork of that,
/// keeps the one that its journal began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The request.
    pub request_id: RequestId,
    /// Its session.
    pub session_id: SessionId,
}

/// What a fork changes of its agent. Empty fields change nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ForkChanges {
    /// An alias of the agent, a model id, or `provider:model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The system prompt, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ForkPolicy>,
}

impl ForkChanges {
    /// Whether the agent is the deployed one.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.model.is_none() && self.instructions.is_none() && self.policy.is_none()
    }
}

/// The policy of a fork.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ForkPolicy {
    /// Cedar policies in place of the package's Cedar file.
    Cedar(String),
    /// The short form in place of the Runefile's `policy`.
    Short(Map<String, Value>),
}

/// What [`crate::AcceptRequest`] copies into a request that is a fork.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fork {
    /// Where it comes from.
    pub origin: ForkOrigin,
    /// Earlier messages that its model is shown at the most, the newest ones.
    pub shown: u32,
    /// The requests whose messages they are had ended by then.
    pub shown_until: Timestamp,
}
