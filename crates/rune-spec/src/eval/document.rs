//! What a person may write in an eval.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::EvalModel;
use crate::cassette::ExpectedStatus;
use crate::document::present;

/// A file of cases.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Eval")]
#[serde(deny_unknown_fields)]
pub(crate) struct EvalDocument {
    /// `1`, the version of the format.
    pub(super) eval: u32,
    /// What the cases are about.
    pub(super) description: Option<String>,
    /// The cases.
    pub(super) cases: Vec<CaseDocument>,
}

/// One case.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "EvalCase")]
#[serde(deny_unknown_fields)]
pub(super) struct CaseDocument {
    /// Unique within the file; `case N` when absent.
    pub(super) name: Option<String>,
    /// What the agent is asked: a text, or JSON. With `tool` the input of the tool, an object.
    pub(super) input: Option<Value>,
    /// Call this tool of the toolset instead of asking the agent.
    pub(super) tool: Option<String>,
    /// Take the input and what models and tools say from this cassette, a file of `evals/`.
    pub(super) cassette: Option<String>,
    /// Which models answer; `own` when absent. With `tool` those that the tool asks, or the agents that it calls.
    pub(super) model: Option<EvalModel>,
    /// What becomes of calls that the policy asks about; when absent nobody decides and the run ends `input-required`.
    pub(super) approve: Option<bool>,
    /// What is expected; when absent that the run completes.
    #[serde(default)]
    pub(super) expect: ExpectDocument,
}

/// What is expected of a run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "EvalExpect")]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectDocument {
    /// How it ends: `completed` when absent, `failed` with `error`.
    pub(super) status: Option<ExpectedStatus>,
    /// What it answers.
    #[serde(default)]
    pub(super) output: OutputDocument,
    /// A part of the message with which it fails.
    pub(super) error: Option<String>,
    /// The tools that are called, in the order of the calls.
    pub(super) tools: Option<Vec<CallDocument>>,
    /// No call of a tool may fail.
    #[serde(default)]
    pub(super) no_tool_errors: bool,
    /// Most model turns.
    pub(super) max_steps: Option<u32>,
    /// Most tokens, input and output.
    pub(super) max_tokens: Option<u64>,
}

/// What an answer has to be; all of what is named.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "EvalOutput")]
#[serde(deny_unknown_fields)]
pub(super) struct OutputDocument {
    /// This value.
    #[serde(default, deserialize_with = "present")]
    pub(super) equals: Option<Value>,
    /// This text is in it, or all of these.
    pub(super) contains: Option<OneOrMore>,
    /// This regular expression is found in it.
    pub(super) matches: Option<String>,
    /// It has this JSON in it: objects may have more fields.
    #[serde(default, deserialize_with = "present")]
    pub(super) json: Option<Value>,
    /// It is valid against this JSON Schema.
    #[serde(default, deserialize_with = "present")]
    pub(super) schema: Option<Value>,
    /// It is what this file below `evals/golden/` holds; `rune eval --update` writes it.
    pub(super) golden: Option<String>,
}

/// A text, or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text, or a list of texts")]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// The name of a tool, or the name with what its input has in it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected the name of a tool, or a map with `tool` and `input`"
)]
pub(super) enum CallDocument {
    Name(String),
    Call(CallWithInput),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "EvalCall")]
#[serde(deny_unknown_fields)]
pub(super) struct CallWithInput {
    /// The name in the toolset.
    pub(super) tool: String,
    /// What its input has in it: objects may have more fields.
    #[serde(default, deserialize_with = "present")]
    pub(super) input: Option<Value>,
}
