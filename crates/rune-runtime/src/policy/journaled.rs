//! The verdicts of a journal, with what they were about.

use std::collections::{HashMap, HashSet};

use rune_store_runtime::{AuditId, Block, Entry, EntryBody, PolicyVerdict, Timestamp};
use serde_json::{Value, json};

use super::decision::{PolicyDecision, Verdict};
use super::query::PolicyResource;

/// What the verdicts of the rules of networks are about. No policy has a say in them.
pub(crate) const NETWORK: &str = "network";

/// The verdict of a decision as the journal keeps it.
pub(crate) fn verdict(
    step: u32,
    call_id: Option<&str>,
    resource: &PolicyResource<'_>,
    decision: &PolicyDecision,
) -> PolicyVerdict {
    PolicyVerdict {
        audit_id: AuditId::generate(),
        step,
        call_id: call_id.map(str::to_owned),
        action: resource.kind().to_owned(),
        resource: resource.id(),
        attributes: resource.attributes(),
        verdict: decision.verdict,
        by_policy: None,
        reason: decision.reason.clone(),
        policies: decision.policy_ids.clone(),
    }
}

/// The verdict where nobody can be asked: what asks is denied, and `why` is added to the reason.
pub(crate) fn without_a_person(verdict: PolicyVerdict, why: &str) -> PolicyVerdict {
    if verdict.verdict != Verdict::Asked {
        return verdict;
    }
    PolicyVerdict {
        verdict: Verdict::Denied,
        by_policy: Some(Verdict::Asked),
        reason: format!("{}; {why}", verdict.reason),
        ..verdict
    }
}

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

/// The verdicts of policies about a request, in their order. `entries` is its journal from the beginning.
pub fn policy_verdicts(entries: impl IntoIterator<Item = Entry>) -> Vec<JournaledVerdict> {
    let mut inputs: HashMap<String, Value> = HashMap::new();
    let mut found = Vec::new();
    for Entry { seq, at, body, .. } in entries {
        for block in body.said().unwrap_or_default() {
            if let Block::ToolCall { id, input, .. } = block {
                inputs.insert(id.clone(), input.clone());
            }
        }
        if let EntryBody::PolicyVerdict(verdict) = body
            && verdict.action != NETWORK
        {
            let call = verdict
                .call_id
                .as_ref()
                .filter(|_| verdict.action == "tool");
            found.push(JournaledVerdict {
                seq,
                at,
                arguments: call.and_then(|id| inputs.get(id)).cloned(),
                verdict,
            });
        }
    }
    found
}

/// The models that a request asked and the agents that it called while no policy could speak about them, as verdicts that
/// allow: another policy may say something else. `entries` is its journal from the beginning.
pub fn undecided(entries: &[Entry]) -> Vec<JournaledVerdict> {
    let mut known: HashSet<(&'static str, String)> = HashSet::new();
    let mut found = Vec::new();
    for entry in entries {
        let (resource, call_id, step, attributes) = match &entry.body {
            EntryBody::PolicyVerdict(verdict) => {
                match (verdict.action.as_str(), &verdict.call_id) {
                    ("model", _) => known.insert(("model", verdict.resource.clone())),
                    ("agent_call", Some(id)) => known.insert(("agent_call", id.clone())),
                    _ => false,
                };
                continue;
            }
            EntryBody::ModelReply(_) | EntryBody::ModelAsked(_) => {
                let Some(reply) = entry.body.reply() else {
                    continue;
                };
                let (provider, model) = (&reply.provider, &reply.model);
                let resource = PolicyResource::Model { provider, model };
                let name = resource.id();
                if !known.insert(("model", name.clone())) {
                    continue;
                }
                (("model", name), None, reply.step, resource.attributes())
            }
            EntryBody::AgentCalled { call_id, agent, .. } => {
                let name = agent.split(':').next().unwrap_or_default();
                let Some((namespace, agent)) = name.split_once('/') else {
                    continue;
                };
                if !known.insert(("agent_call", call_id.clone())) {
                    continue;
                }
                let attributes = json!({"namespace": namespace, "name": agent});
                (
                    ("agent_call", name.to_owned()),
                    Some(call_id.clone()),
                    0,
                    attributes,
                )
            }
            _ => continue,
        };
        let (action, resource) = resource;
        found.push(JournaledVerdict {
            seq: entry.seq,
            at: entry.at,
            arguments: None,
            verdict: PolicyVerdict {
                audit_id: AuditId::from_bytes([0; 16]),
                step,
                call_id,
                action: action.to_owned(),
                resource,
                attributes,
                verdict: Verdict::Allowed,
                by_policy: None,
                reason: "no policy could speak about it".to_owned(),
                policies: Vec::new(),
            },
        });
    }
    found
}
