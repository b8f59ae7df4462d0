//! The short YAML form of a policy.

mod glob;
mod rule;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use glob::{Glob, GlobToken};
pub use rule::{PolicyRule, RuleArguments};

/// What happens to a call that no rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyMode {
    /// What the toolset lists is allowed.
    #[default]
    Listed,
    /// Whatever is not declared read-only asks.
    Strict,
}

/// The `policy` of a Runefile. Deny wins, then ask, then allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// What happens to a call that no rule names.
    pub mode: PolicyMode,
    /// Calls that run without asking.
    pub allow: Vec<PolicyRule>,
    /// Calls that wait for a person.
    pub ask: Vec<PolicyRule>,
    /// Calls that never run.
    pub deny: Vec<PolicyRule>,
    /// A Cedar policy file inside the package.
    pub file: Option<PathBuf>,
    /// How a person is asked.
    pub approval: Approval,
}

/// How long a call waits for a person, and what counts then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// How long it waits; without end where absent.
    #[serde(
        rename = "timeout_ms",
        serialize_with = "crate::workflow::optional_millis"
    )]
    pub timeout: Option<Duration>,
    /// What counts when nobody has decided by then.
    pub default: ApprovalDefault,
}

/// What counts when nobody has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalDefault {
    /// The call runs.
    Approve,
    /// The call does not run.
    #[default]
    Deny,
}
