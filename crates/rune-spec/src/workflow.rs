//! `workflow.yaml`: agents run in order, in parallel where they may.

mod document;
mod expression;
mod validate;

use std::path::Path;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::agent_ref::AgentRef;
use crate::document::Document;
use crate::error::SpecErrors;

pub(crate) use document::WorkflowDocument;

/// A valid workflow: the steps form a graph without cycles, and every reference leads to a step that runs before.
///
/// Templates and expressions are minijinja text over `input` and `steps.<id>.output`. Ids with `-` are already written
/// as `steps["my-id"]`, so the texts can be compiled as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workflow {
    /// The workflow's name.
    pub name: String,
    /// The workflow's version.
    pub version: semver::Version,
    /// Shown in lists.
    pub description: Option<String>,
    /// Hard limit of the whole run.
    #[serde(rename = "timeout_ms", serialize_with = "crate::tool::as_millis")]
    pub timeout: Duration,
    /// The steps, in the order of the file.
    pub steps: Vec<Step>,
    /// What the run answers.
    pub output_step: OutputStep,
    /// Indexes into `steps`: the steps of one wave have all their dependencies in earlier waves.
    pub waves: Vec<Vec<usize>>,
}

/// One call of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Unique in the workflow.
    pub id: String,
    /// Which agent.
    pub agent_ref: AgentRef,
    /// Template of the agent's input.
    pub input_template: String,
    /// Ids of the steps that must have ended before.
    pub depends_on: Vec<String>,
    /// The step is skipped when this is false.
    pub condition: Option<Condition>,
    /// Hard limit of one attempt; the workflow's when absent.
    #[serde(rename = "timeout_ms", serialize_with = "optional_millis")]
    pub timeout: Option<Duration>,
    /// Attempts in total, at least 1.
    pub max_attempts: u32,
}

/// When a step runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// A bare expression; the step runs when its value is true.
    Expression(String),
    /// The older form `{{ … }} == text`: the rendered template, trimmed, is compared as text.
    Compare {
        /// The left side.
        template: String,
        /// `false` for `!=`.
        equal: bool,
        /// The right side, without quotes.
        text: String,
    },
}

/// What a workflow answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStep {
    /// The output of this step; the last one of the file when nothing is said.
    Step(String),
    /// A rendered template.
    Template(String),
}

impl Workflow {
    /// Parses and validates the text of a workflow. `path` only serves the messages.
    ///
    /// # Errors
    /// The first error of the YAML, or every error of meaning.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SpecErrors> {
        let (document, source) = Document::parse::<WorkflowDocument>(path, text)?;
        validate::validate(document, &source)
    }

    /// The step with this id.
    pub fn step(&self, id: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == id)
    }
}

pub(crate) fn optional_millis<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => crate::tool::as_millis(duration, serializer),
        None => serializer.serialize_none(),
    }
}
