//! What was decided, and why.

pub use rune_store_runtime::AuditVerdict as Verdict;
use serde::Serialize;

/// A verdict with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyDecision {
    /// What becomes of the call.
    pub verdict: Verdict,
    /// Why, for a person and for the model.
    pub reason: String,
    /// The policies that decided, in the order of the files; empty where none spoke.
    pub policy_ids: Vec<String>,
}

impl PolicyDecision {
    /// A refusal because nothing could be decided.
    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Denied,
            reason: reason.into(),
            policy_ids: Vec::new(),
        }
    }
}
