//! The usage ledger: one row per model call, projected from model replies, compactions and what tools have models do.

use serde::{Deserialize, Serialize};

use crate::{RequestId, Settlement, Timestamp, Usage};

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
    /// Who made the request.
    pub caller: String,
    /// Tokens.
    pub usage: Usage,
    /// What they cost in millionths of a US dollar; absent where the model has no known price.
    pub cost_micro_usd: Option<u64>,
}

/// A model call as the ledger counts it.
#[derive(Debug, Clone, Copy)]
pub struct Billed<'a> {
    /// The provider that answered.
    pub provider: &'a str,
    /// The model id.
    pub model: &'a str,
    /// Tokens.
    pub usage: &'a Usage,
    /// What they cost in millionths of a US dollar; absent where the model has no known price.
    pub cost_micro_usd: Option<u64>,
    /// What becomes of what the request has reserved, in the commit of the entry.
    pub settlement: Settlement,
}

/// What model calls cost together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Of the calls that have a price, in millionths of a US dollar; absent where none has.
    pub micro_usd: Option<u64>,
    /// Calls without a known price, which `micro_usd` leaves out.
    pub unpriced_calls: u64,
}

impl Cost {
    /// Adds a call.
    pub fn add(&mut self, micro_usd: Option<u64>) {
        match micro_usd {
            Some(cost) => {
                let sum = self.micro_usd.unwrap_or_default().saturating_add(cost);
                self.micro_usd = Some(sum);
            }
            None => self.unpriced_calls = self.unpriced_calls.saturating_add(1),
        }
    }
}

/// Which rows of the ledger to list, newest first. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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

/// What the ledger is summed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageGroup {
    /// Agent and model.
    #[default]
    AgentModel,
    /// Agent.
    Agent,
    /// Provider and model.
    Model,
    /// Day, in UTC.
    Day,
    /// Caller of the request.
    Caller,
}

/// The sum of one group. Only the fields the group is made of are there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UsageTotal {
    /// Namespace of the agent.
    pub namespace: Option<String>,
    /// Name of the agent.
    pub agent: Option<String>,
    /// The provider.
    pub provider: Option<String>,
    /// The model id.
    pub model: Option<String>,
    /// The day, as in `2026-11-23`.
    pub day: Option<String>,
    /// The caller.
    pub caller: Option<String>,
    /// Model calls.
    pub calls: u64,
    /// Tokens.
    pub usage: Usage,
    /// What they cost.
    pub cost: Cost,
}
