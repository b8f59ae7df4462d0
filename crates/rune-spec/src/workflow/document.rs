//! What a person may write in `workflow.yaml`.

use schemars::JsonSchema;
use serde::Deserialize;

/// Agents run in order, in parallel where they may.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Workflow")]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkflowDocument {
    /// The workflow's name.
    pub(crate) name: String,
    /// Semantic version.
    pub(crate) version: String,
    /// Shown in lists.
    pub(crate) description: Option<String>,
    /// Hard limit of the whole run, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub(crate) timeout_ms: u64,
    /// The steps.
    pub(crate) steps: Vec<StepDocument>,
    /// A step id, or a template; the last step when absent.
    pub(crate) output_step: Option<String>,
}

fn default_timeout_ms() -> u64 {
    120_000
}

/// One call of an agent.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Step")]
#[serde(deny_unknown_fields)]
pub(crate) struct StepDocument {
    /// Unique in the workflow: letters, digits, `_` and `-`.
    pub(crate) id: String,
    /// `local://[NAMESPACE/]NAME[?alias=ALIAS]` or URL.
    pub(crate) agent_ref: String,
    /// Template of the agent's input; sees `input` and `steps.<id>.output`.
    #[serde(default = "default_input_template")]
    pub(crate) input_template: String,
    /// Steps that must have ended before.
    #[serde(default)]
    pub(crate) depends_on: Vec<String>,
    /// An expression (`steps.router.output == 'billing'`) or `{{ … }} == text`.
    pub(crate) condition: Option<String>,
    /// Hard limit of one attempt, in milliseconds.
    pub(crate) timeout_ms: Option<u64>,
    /// When a failed step is repeated.
    #[serde(default)]
    pub(crate) retry: RetryDocument,
}

fn default_input_template() -> String {
    "{{ input }}".to_owned()
}

/// When a failed step is repeated.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Retry")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetryDocument {
    /// Attempts in total.
    pub(crate) max_attempts: u32,
}

impl Default for RetryDocument {
    fn default() -> Self {
        Self { max_attempts: 1 }
    }
}
