//! Where an agent is found.

use std::fmt;

use rune_spec::LocalAgent;
use serde::{Deserialize, Serialize};

/// The alias where none is named.
const DEFAULT_ALIAS: &str = "stable";

/// One deployment of an agent, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AgentAddress {
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub name: String,
    /// Alias of the deployment.
    pub alias: String,
}

impl AgentAddress {
    /// What a reference means to an agent in `namespace`.
    #[must_use]
    pub fn resolve(reference: &LocalAgent, namespace: &str) -> Self {
        let own = || namespace.to_owned();
        let alias = reference.alias.as_deref().unwrap_or(DEFAULT_ALIAS);
        Self {
            namespace: reference.namespace.clone().unwrap_or_else(own),
            name: reference.name.as_str().to_owned(),
            alias: alias.to_owned(),
        }
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.alias == DEFAULT_ALIAS {
            return Ok(());
        }
        write!(f, ":{}", self.alias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(reference: &str) -> String {
        AgentAddress::resolve(&reference.parse().unwrap(), "dev").to_string()
    }

    #[test]
    fn what_is_not_named_is_the_callers_namespace_and_stable() {
        assert_eq!(resolved("a"), "dev/a");
        assert_eq!(resolved("prod/a"), "prod/a");
        assert_eq!(resolved("prod/a?alias=canary"), "prod/a:canary");
    }
}
