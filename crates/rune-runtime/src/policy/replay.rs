//! What another policy would have decided for calls that were made.

use std::collections::BTreeMap;

use rune_spec::{AgentPackage, ToolDescriptor};
use rune_store_runtime::RequestId;
use serde::Serialize;
use serde_json::Value;

use super::decision::{PolicyDecision, Verdict};
use super::query::{PolicyPrincipal, PolicyQuery, PolicyResource};
use super::set::PolicySet;

/// A tool call of the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct JournaledCall {
    /// Its request.
    pub request_id: RequestId,
    /// Its id in the model's reply.
    pub call_id: String,
    /// The request's caller.
    pub caller: String,
    /// The toolset form of its name.
    pub tool: String,
    /// The input.
    pub arguments: Value,
    /// What was decided then; `None` where the journal does not say, which is what ran before there were policies.
    pub verdict: Option<Verdict>,
}

/// A call that would be decided otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyChange {
    /// Its request.
    pub request_id: RequestId,
    /// Its id in the model's reply.
    pub call_id: String,
    /// The tool.
    pub tool: String,
    /// The input.
    pub arguments: Value,
    /// What was decided then.
    pub before: Verdict,
    /// What would be decided now.
    pub after: PolicyDecision,
}

/// What would change.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PolicyComparison {
    /// Calls that were looked at.
    pub calls: u64,
    /// Calls that are denied now and were not.
    pub newly_denied: Vec<PolicyChange>,
    /// Calls that ask now and did not.
    pub newly_asked: Vec<PolicyChange>,
    /// Calls that are allowed now and were not.
    pub newly_allowed: Vec<PolicyChange>,
}

impl PolicyComparison {
    /// Whether nothing would change.
    #[must_use]
    pub const fn is_unchanged(&self) -> bool {
        self.newly_denied.is_empty() && self.newly_asked.is_empty() && self.newly_allowed.is_empty()
    }
}

impl PolicySet {
    /// Decides journaled calls again with these policies and the tools of their package. A tool that the package does not have is
    /// denied. Nothing runs.
    pub fn compare(
        &self,
        package: &AgentPackage,
        namespace: &str,
        calls: impl IntoIterator<Item = JournaledCall>,
    ) -> PolicyComparison {
        let principal = PolicyPrincipal::of(package, namespace);
        let tools: BTreeMap<String, &ToolDescriptor> = package
            .tools
            .iter()
            .map(|tool| (tool.reference.to_string(), &tool.descriptor))
            .collect();
        let mut comparison = PolicyComparison::default();
        for call in calls {
            comparison.calls += 1;
            let before = call.verdict.unwrap_or(Verdict::Allowed);
            let after = match tools.get(&call.tool) {
                Some(descriptor) => self.decide(&PolicyQuery {
                    principal: &principal,
                    caller: &call.caller,
                    resource: PolicyResource::Tool {
                        name: &call.tool,
                        descriptor,
                        arguments: &call.arguments,
                    },
                }),
                None => PolicyDecision::failed(&format!("`{}` is not in the toolset", call.tool)),
            };
            if after.verdict == before {
                continue;
            }
            let list = match after.verdict {
                Verdict::Allowed => &mut comparison.newly_allowed,
                Verdict::Asked => &mut comparison.newly_asked,
                Verdict::Denied => &mut comparison.newly_denied,
            };
            list.push(PolicyChange {
                request_id: call.request_id,
                call_id: call.call_id,
                tool: call.tool,
                arguments: call.arguments,
                before,
                after,
            });
        }
        comparison
    }
}
