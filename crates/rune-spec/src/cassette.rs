//! Cassettes (`evals/*.yaml`): what a run of an agent needs from outside, and what it came to.
//!
//! A cassette holds the input, the earlier messages of the conversation, and the journal of a run: what the models
//! said, what the tools answered, what policy and people decided. `rune test` plays it to the agent as it is now.
//! Without `expect` everything has to be as it was recorded; with it only what it names. The entries of the journal
//! and the messages are for the engine to understand; this file knows where they stand.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checker::Checker;
use crate::document::{At, Document, present};
use crate::error::{SpecError, SpecErrors};
use crate::mcp_tool::McpTool;

/// The version of the format.
pub const CASSETTE_VERSION: u32 = 1;

/// What a cassette file says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CassetteFile {
    /// [`CASSETTE_VERSION`].
    pub cassette: u32,
    /// The agent that ran.
    pub agent: String,
    /// The request that was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When it was accepted (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_at: Option<String>,
    /// The namespace in which it ran.
    #[serde(default = "namespace")]
    pub namespace: String,
    /// Who asked; the policies see it.
    #[serde(default = "caller")]
    pub caller: String,
    /// What of the agent the models were told.
    #[serde(default, skip_serializing_if = "CassettePrompt::is_empty")]
    pub prompt: CassettePrompt,
    /// What is asked of the run. Without it: everything as recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expectations>,
    /// The tools of MCP servers that the agent had, as the servers described them: no server is asked when it is played.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mcp_tools: Vec<McpTool>,
    /// The input.
    pub input: Value,
    /// Earlier requests of the conversation, each a list of messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Vec<Value>>,
    /// The newest prompt of the conversation before it that a provider counted: by it, what fits is estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<MeasuredPrompt>,
    /// The entries of the journal behind the input.
    pub journal: Vec<Value>,
}

/// Tokens of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredPrompt {
    /// As they were estimated.
    pub estimated: u64,
    /// As the provider counted them.
    pub reported: u64,
}

/// Digests of what the models were told. What is absent is not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CassettePrompt {
    /// Of the instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Of the name, description and input schema of each tool, by model-visible name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<BTreeMap<String, String>>,
    /// Of the schema of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<String>,
}

impl CassettePrompt {
    /// Whether there is nothing to compare.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.instructions.is_none() && self.tools.is_none() && self.output_schema.is_none()
    }
}

/// What a run has to come to. Empty fields ask for nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    /// How it ends: `completed`, `failed`, or `input-required` where it waits for a person that nobody recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ExpectedStatus>,
    /// What it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<ExpectedOutput>,
    /// The tools it calls, by their names in the package, in the order of the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// What policy decides, by tool: every decision about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<String, ExpectedVerdict>,
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExpectedStatus {
    /// With an answer.
    Completed,
    /// Without one.
    Failed,
    /// It waits for a person.
    InputRequired,
}

impl ExpectedStatus {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::InputRequired => "input-required",
        }
    }
}

/// What policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpectedVerdict {
    /// The call runs.
    Allowed,
    /// A person is asked.
    Asked,
    /// The call does not run.
    Denied,
}

impl ExpectedVerdict {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Asked => "asked",
            Self::Denied => "denied",
        }
    }
}

/// What an answer has to be; all of what is named. An answer that is no text is compared as its JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedOutput {
    /// This value.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub equals: Option<Value>,
    /// This text is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// This regular expression is found in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
}

impl ExpectedOutput {
    /// What is not as it has to be; `None` where everything is.
    #[must_use]
    pub fn mismatch(&self, output: &Value) -> Option<String> {
        let text = match output {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if let Some(value) = self.equals.as_ref().filter(|value| *value != output) {
            return Some(format!("equals {value}"));
        }
        if let Some(part) = self.contains.as_ref().filter(|part| !text.contains(*part)) {
            return Some(format!("contains {part:?}"));
        }
        let found = |pattern: &String| Regex::new(pattern).is_ok_and(|regex| regex.is_match(&text));
        let pattern = self.matches.as_ref().filter(|pattern| !found(pattern))?;
        Some(format!("matches {pattern:?}"))
    }
}

/// Where the parts of a cassette stand in its file.
#[derive(Debug)]
pub struct CassettePlaces(Document);

impl CassettePlaces {
    /// An error at an entry of the journal, counted from 0.
    pub fn entry(&self, index: usize, message: impl Into<String>) -> SpecError {
        self.0.error(&At::top("journal").index(index), message)
    }

    /// An error at a message of an earlier request, both counted from 0.
    pub fn message(&self, request: usize, index: usize, message: impl Into<String>) -> SpecError {
        let at = At::top("history").index(request).index(index);
        self.0.error(&at, message)
    }

    /// An error at a key of the file.
    pub fn key(&self, name: &str, message: impl Into<String>) -> SpecError {
        self.0.error(&At::top(name), message)
    }
}

impl CassetteFile {
    /// Parses the text of a cassette, YAML or JSON. `path` only serves the messages.
    ///
    /// # Errors
    /// The first error of the text, or every error of meaning.
    pub fn parse(path: &Path, text: &str) -> Result<(Self, CassettePlaces), SpecErrors> {
        let (file, source) = Document::parse::<Self>(path, text)?;
        let mut checker = Checker::new(&source);
        if file.cassette != CASSETTE_VERSION {
            checker.error(
                &At::top("cassette"),
                format!(
                    "this is version {} of the format, and this Rune reads version {CASSETTE_VERSION}",
                    file.cassette
                ),
            );
        }
        if file.journal.is_empty() {
            checker.error(&At::top("journal"), "a cassette has at least one entry");
        }
        let output = file
            .expect
            .as_ref()
            .and_then(|expect| expect.output.as_ref());
        if let Some(Err(error)) = output
            .and_then(|output| output.matches.as_ref())
            .map(|pattern| Regex::new(pattern))
        {
            let at = At::top("expect").field("output").field("matches");
            checker.error(&at, format!("not a regular expression: {error}"));
        }
        let file = checker.finish(file)?;
        Ok((file, CassettePlaces(source)))
    }
}

fn namespace() -> String {
    "dev".to_owned()
}

fn caller() -> String {
    "anonymous".to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(text: &str) -> Vec<(Option<usize>, String)> {
        let errors = CassetteFile::parse(Path::new("evals/a.yaml"), text).unwrap_err();
        let errors = errors.iter();
        errors
            .map(|error| (error.line(), error.message().to_owned()))
            .collect()
    }

    #[test]
    fn points_at_what_is_wrong() {
        let text =
            "cassette: 2\nagent: a\ninput: hi\njournal: []\nexpect:\n  output:\n    matches: '('\n";
        let found = errors(text);
        let lines: Vec<_> = found.iter().map(|(line, _)| line.unwrap()).collect();
        assert_eq!(lines, [1, 4, 7], "{found:?}");
        let found = errors("cassette: 1\nagent: a\ninputs: hi\njournal: []\n");
        assert_eq!(found, [(Some(3), "unknown key `inputs`".to_owned())]);
    }

    #[test]
    fn an_answer_of_nothing_can_be_asked_for() {
        let text =
            "cassette: 1\nagent: a\ninput: hi\njournal: [{}]\nexpect: {output: {equals: null}}\n";
        let (file, _) = CassetteFile::parse(Path::new("evals/a.yaml"), text).unwrap();
        let expected = file.expect.unwrap().output.unwrap();
        assert_eq!(expected.mismatch(&json!(null)), None);
        assert_eq!(
            expected.mismatch(&json!("x")),
            Some("equals null".to_owned())
        );
    }

    #[test]
    fn an_answer_is_all_that_is_named() {
        let expected = ExpectedOutput {
            equals: None,
            contains: Some("two".to_owned()),
            matches: Some("^one .* [0-9]$".to_owned()),
        };
        assert_eq!(expected.mismatch(&json!("one two 3")), None);
        assert_eq!(
            expected.mismatch(&json!("one 3")),
            Some("contains \"two\"".to_owned())
        );
        assert!(expected.mismatch(&json!({"two": 3})).is_some());
    }
}
