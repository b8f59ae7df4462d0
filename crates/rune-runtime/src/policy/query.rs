//! What is asked of a policy.

use std::borrow::Cow;

use rune_spec::{AgentPackage, ToolDescriptor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The actions, each with the type of what it is about.
pub(super) const ACTIONS: [(&str, &str); 4] = [
    ("tool", "Tool"),
    ("model", "Model"),
    ("agent_call", "Agent"),
    ("egress", "Host"),
];

/// The agent that wants to do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPrincipal {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its networks.
    pub networks: Vec<String>,
}

impl PolicyPrincipal {
    /// The agent of a package in a namespace.
    #[must_use]
    pub fn of(package: &AgentPackage, namespace: &str) -> Self {
        let spec = &package.runefile;
        Self {
            namespace: namespace.to_owned(),
            name: spec.name.as_str().to_owned(),
            version: spec.version.to_string(),
            networks: spec.networks.clone(),
        }
    }
}

/// An agent that is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCallee {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its version; absent where it does not run, and a policy that reads it fails then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its networks; absent where it has not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
}

/// One call that waits for a verdict.
#[derive(Debug, Clone, Copy)]
pub struct PolicyQuery<'a> {
    /// Who wants it.
    pub principal: &'a PolicyPrincipal,
    /// For whom: the caller of the request.
    pub caller: &'a str,
    /// What.
    pub resource: PolicyResource<'a>,
}

/// What a call reaches for; says which action it is.
#[derive(Debug, Clone, Copy)]
pub enum PolicyResource<'a> {
    /// A tool, with these arguments.
    Tool {
        /// The toolset form: `rune@shell-exec`, `word-count`, `server/tool`.
        name: &'a str,
        /// What the tool is.
        descriptor: &'a ToolDescriptor,
        /// The validated input.
        arguments: &'a Value,
    },
    /// A model.
    Model {
        /// The provider in the Runefile's words.
        provider: &'a str,
        /// The provider's model id.
        model: &'a str,
    },
    /// Another agent, or the same one again.
    Agent(&'a PolicyCallee),
    /// A host on the network.
    Host {
        /// Name in lower case, or address, without brackets.
        host: &'a str,
        /// TCP port.
        port: u16,
    },
}

impl PolicyResource<'_> {
    /// The action: `tool`, `model`, `agent_call` or `egress`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tool { .. } => "tool",
            Self::Model { .. } => "model",
            Self::Agent(_) => "agent_call",
            Self::Host { .. } => "egress",
        }
    }

    /// What policies can see of it, to be decided again; null for a tool, of which the call says it.
    #[must_use]
    pub fn attributes(&self) -> Value {
        match self {
            Self::Tool { .. } => Value::Null,
            Self::Model { provider, model } => json!({"provider": provider, "name": model}),
            Self::Agent(agent) => json!(agent),
            Self::Host { host, port } => json!({"name": host, "port": port}),
        }
    }

    /// The resource as the audit trail names it.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Host { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Host { host, port } => format!("{host}:{port}"),
            _ => self.entity_id().into_owned(),
        }
    }

    /// The resource as policies name it.
    pub(super) fn entity_id(&self) -> Cow<'_, str> {
        match self {
            Self::Tool { name, .. } => (*name).into(),
            Self::Model { provider, model } => format!("{provider}/{model}").into(),
            Self::Agent(agent) => format!("{}/{}", agent.namespace, agent.name).into(),
            Self::Host { host, .. } => (*host).into(),
        }
    }
}
