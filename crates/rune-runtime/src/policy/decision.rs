//! What was decided, and why.

pub use rune_store_runtime::AuditVerdict as Verdict;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Longest reason, in characters: it goes into the journal and to the model.
const MAX_REASON_CHARS: usize = 500;
/// Most policies named with a verdict; more of them are one entry with their digest.
const MAX_POLICY_IDS: usize = 16;

/// A verdict with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyDecision {
    /// What becomes of the call.
    pub verdict: Verdict,
    /// Why, for a person and for the model.
    pub reason: String,
    /// The policies that decided, in the order of the files; empty where none spoke. Two decisions by different
    /// policies have different lists, also where a list is shortened.
    pub policy_ids: Vec<String>,
}

impl PolicyDecision {
    pub(super) fn new(verdict: Verdict, reason: &str, mut policy_ids: Vec<String>) -> Self {
        if policy_ids.len() > MAX_POLICY_IDS {
            let rest = policy_ids.split_off(MAX_POLICY_IDS - 1);
            let mut hash = Sha256::new();
            for id in &rest {
                hash.update((id.len() as u64).to_le_bytes());
                hash.update(id.as_bytes());
            }
            let digest: Vec<String> = hash
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            policy_ids.push(format!("{} more, sha256:{}", rest.len(), digest.concat()));
        }
        Self {
            verdict,
            reason: reason.chars().take(MAX_REASON_CHARS).collect(),
            policy_ids,
        }
    }

    /// A refusal because nothing could be decided.
    pub(super) fn failed(reason: &str) -> Self {
        Self::new(Verdict::Denied, reason, Vec::new())
    }
}
