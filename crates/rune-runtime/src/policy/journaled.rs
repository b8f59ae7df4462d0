//! The verdicts of a journal, with what they were about.

use std::collections::HashMap;

use rune_store_runtime::{Block, Entry, EntryBody, PolicyVerdict, Timestamp};
use serde_json::Value;

use super::decision::Verdict;

/// A verdict of the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct JournaledVerdict {
    /// Its entry.
    pub seq: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// The arguments of the call it is about; absent where it is about none.
    pub arguments: Option<Value>,
    /// The verdict.
    pub verdict: PolicyVerdict,
}

impl JournaledVerdict {
    /// What the policies said, whether or not it counted.
    #[must_use]
    pub fn by_policy(&self) -> Verdict {
        self.verdict.by_policy.unwrap_or(self.verdict.verdict)
    }
}

/// The verdicts of a request, in their order. `entries` is its journal from the beginning.
pub fn policy_verdicts(entries: impl IntoIterator<Item = Entry>) -> Vec<JournaledVerdict> {
    let mut inputs: HashMap<String, Value> = HashMap::new();
    let mut found = Vec::new();
    for Entry { seq, at, body, .. } in entries {
        match body {
            EntryBody::ModelReply(reply) => {
                for block in reply.blocks {
                    if let Block::ToolCall { id, input, .. } = block {
                        inputs.insert(id, input);
                    }
                }
            }
            EntryBody::PolicyVerdict(verdict) => {
                let call = verdict.call_id.as_ref();
                found.push(JournaledVerdict {
                    seq,
                    at,
                    arguments: call.and_then(|id| inputs.get(id)).cloned(),
                    verdict,
                });
            }
            _ => {}
        }
    }
    found
}
