//! What another policy would have decided for calls that were made.

use std::collections::BTreeMap;

use rune_spec::{AgentPackage, ToolDescriptor};
use rune_store_runtime::RequestId;
use serde::Serialize;
use serde_json::Value;

use super::decision::{PolicyDecision, Verdict};
use super::query::{PolicyCallee, PolicyPrincipal, PolicyQuery, PolicyResource};
use super::set::PolicySet;

/// What a call of the journal reached for.
#[derive(Debug, Clone, PartialEq)]
pub enum JournaledResource {
    /// A tool.
    Tool {
        /// The toolset form of its name.
        name: String,
        /// The input.
        arguments: Value,
    },
    /// A model.
    Model {
        /// The provider.
        provider: String,
        /// The provider's id of the model.
        model: String,
    },
    /// Another agent.
    Agent(PolicyCallee),
    /// A host on the network.
    Host {
        /// Its name or address.
        host: String,
        /// The port.
        port: u16,
    },
}

impl JournaledResource {
    /// What a verdict says it is about; `None` where it does not say enough. `arguments` are those of its call.
    #[must_use]
    pub fn of(action: &str, name: &str, attributes: &Value, arguments: &Value) -> Option<Self> {
        let text = |field: &str| attributes[field].as_str().map(str::to_owned);
        Some(match action {
            "tool" => Self::Tool {
                name: name.to_owned(),
                arguments: arguments.clone(),
            },
            "model" => Self::Model {
                provider: text("provider")?,
                model: text("name")?,
            },
            "agent_call" => Self::Agent(serde_json::from_value(attributes.clone()).ok()?),
            "egress" => Self::Host {
                host: text("name")?,
                port: attributes["port"].as_u64()?.try_into().ok()?,
            },
            _ => return None,
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Tool { name, .. } => name.clone(),
            _ => String::new(),
        }
    }

    fn into_arguments(self) -> Value {
        match self {
            Self::Tool { arguments, .. } => arguments,
            _ => Value::Null,
        }
    }

    /// What policies are asked about; `None` where no tool has its name.
    fn query<'a>(
        &'a self,
        tools: &BTreeMap<String, &'a ToolDescriptor>,
    ) -> Option<PolicyResource<'a>> {
        Some(match self {
            Self::Tool { name, arguments } => PolicyResource::Tool {
                name,
                descriptor: tools.get(name).copied()?,
                arguments,
            },
            Self::Model { provider, model } => PolicyResource::Model { provider, model },
            Self::Agent(agent) => PolicyResource::Agent(agent),
            Self::Host { host, port } => PolicyResource::Host { host, port: *port },
        })
    }
}

/// A call of the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct JournaledCall {
    /// Its request.
    pub request_id: RequestId,
    /// Its id in the model's reply, or the step of a workflow; absent where it is about a model.
    pub call_id: Option<String>,
    /// The request's caller.
    pub caller: String,
    /// What it reached for.
    pub resource: JournaledResource,
    /// What was decided then; `None` where no policy could speak about it.
    pub verdict: Option<Verdict>,
}

/// A call that would be decided otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyChange {
    /// Its request.
    pub request_id: RequestId,
    /// Its id in the model's reply, or the step of a workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// `tool`, `model`, `agent_call` or `egress`.
    pub action: &'static str,
    /// To what, as the audit trail names it.
    pub resource: String,
    /// The input of a tool.
    #[serde(skip_serializing_if = "Value::is_null")]
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
            let resource = call.resource.query(&tools);
            let after = match &resource {
                Some(resource) => self.decide(&PolicyQuery {
                    principal: &principal,
                    caller: &call.caller,
                    resource: *resource,
                }),
                None => PolicyDecision::failed("it is not in the toolset"),
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
                action: resource.map_or("tool", |resource| resource.kind()),
                resource: resource.map_or_else(|| call.resource.name(), |resource| resource.id()),
                call_id: call.call_id,
                arguments: call.resource.into_arguments(),
                before,
                after,
            });
        }
        comparison
    }
}
