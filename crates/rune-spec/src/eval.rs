//! Evals (`evals/*.yaml`): cases on which an agent, or one of its tools, is tried.
//!
//! A case has an input and what is expected of the run. Beside them `evals/` holds cassettes
//! ([`CassetteFile`](crate::CassetteFile)) and, in `evals/golden/`, the outputs that cases are compared with.

mod document;
mod validate;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cassette::ExpectedStatus;
use crate::checker::Checker;
use crate::document::{At, Document};
use crate::error::{SpecError, SpecErrors};

pub(crate) use document::EvalDocument;

/// The version of the format.
pub const EVAL_VERSION: u32 = 1;
/// Where golden files are, in a package.
pub const GOLDEN_DIR: &str = "evals/golden";
/// Most cases of a file.
const MAX_CASES: usize = 1000;

/// Cases on which an agent is tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalFile {
    /// What they are about.
    pub description: Option<String>,
    /// The cases, in the order of the file.
    pub cases: Vec<EvalCase>,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalCase {
    /// Its name, unique within the file.
    pub name: String,
    /// What is tried.
    pub subject: EvalSubject,
    /// Which models answer.
    pub model: EvalModel,
    /// What becomes of calls that the policy asks about.
    pub approve: Option<bool>,
    /// What is expected.
    pub expect: EvalExpectations,
}

/// What a case tries.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalSubject {
    /// The agent, with this input.
    Agent(Value),
    /// One tool of the agent, with this input, an object.
    Tool {
        /// Its name in the toolset.
        tool: String,
        /// Its input.
        input: Value,
    },
    /// The agent, with input and models of this cassette, a file of `evals/`.
    Cassette(PathBuf),
}

/// Which models answer in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvalModel {
    /// Those of the Runefile.
    #[default]
    Own,
    /// The offline model, with the package's `script.yaml`.
    Offline,
}

/// What is expected of a run. Empty fields ask for nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalExpectations {
    /// How it ends.
    pub status: ExpectedStatus,
    /// What it answers.
    pub output: EvalOutput,
    /// A part of the message with which it fails.
    pub error: Option<String>,
    /// The tools that are called, in the order of the calls.
    pub tools: Option<Vec<EvalCall>>,
    /// Whether no call of a tool may fail.
    pub no_tool_errors: bool,
    /// Most model turns.
    pub max_steps: Option<u32>,
    /// Most tokens, input and output.
    pub max_tokens: Option<u64>,
}

/// What an answer has to be; all of what is named.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EvalOutput {
    /// This value.
    pub equals: Option<Value>,
    /// These texts are in it; of one that is no text, in its JSON.
    pub contains: Vec<String>,
    /// This regular expression is found in it.
    pub matches: Option<String>,
    /// It has this JSON in it.
    pub json: Option<Value>,
    /// It is valid against this JSON Schema.
    pub schema: Option<Value>,
    /// It is what this file of `evals/golden/` holds.
    pub golden: Option<PathBuf>,
}

/// A call that is expected.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalCall {
    /// The tool, by its name in the toolset.
    pub tool: String,
    /// What its input has in it.
    pub input: Option<Value>,
}

/// Whether a value has another in it: objects may have more fields, everything else is the same.
#[must_use]
pub fn json_contains(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(value), Value::Object(part)) => part.iter().all(|(key, part)| {
            let found = value.get(key);
            found.is_some_and(|value| json_contains(value, part))
        }),
        (Value::Array(values), Value::Array(parts)) => {
            values.len() == parts.len()
                && values
                    .iter()
                    .zip(parts)
                    .all(|(value, part)| json_contains(value, part))
        }
        (value, part) => value == part,
    }
}

impl EvalFile {
    /// Whether a file of `evals/` is one of cases: a line of it begins with `eval:`.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.lines().any(|line| line.starts_with("eval:"))
    }

    /// Parses the text of an eval. `path` only serves the messages.
    ///
    /// # Errors
    /// The first error of the text, or every error of meaning.
    pub fn parse(path: &Path, text: &str) -> Result<(Self, EvalPlaces), SpecErrors> {
        let (document, source) = Document::parse::<EvalDocument>(path, text)?;
        let mut checker = Checker::new(&source);
        if document.eval != EVAL_VERSION {
            let found = document.eval;
            checker.error(
                &At::top("eval"),
                format!("this is version {found} of the format, and this Rune reads version {EVAL_VERSION}"),
            );
        }
        if document.cases.is_empty() {
            checker.error(&At::top("cases"), "an eval has at least one case");
        }
        let mut cases = Vec::new();
        let mut names = BTreeSet::new();
        if checker.at_most(&At::top("cases"), document.cases.len(), MAX_CASES) {
            for (index, case) in document.cases.into_iter().enumerate() {
                let at = At::top("cases").index(index);
                let case = validate::case(&mut checker, &at, index, case);
                if let Some(case) = &case
                    && !names.insert(case.name.clone())
                {
                    let message = format!("another case is called `{}`", case.name);
                    checker.error(&at.field("name"), message);
                }
                cases.extend(case);
            }
        }
        let file = checker.finish(Self {
            description: document.description,
            cases,
        })?;
        Ok((file, EvalPlaces(source)))
    }
}

/// Where the parts of an eval stand in its file.
#[derive(Debug)]
pub struct EvalPlaces(Document);

impl EvalPlaces {
    /// An error at a key of a case, counted from 0; the key is named by the way to it.
    pub fn case(&self, index: usize, key: &[&str], message: impl Into<String>) -> SpecError {
        let case = At::top("cases").index(index);
        let at = key.iter().fold(case, |at, key| at.field(key));
        self.0.error(&at, message)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(text: &str) -> Vec<(usize, String)> {
        let errors = EvalFile::parse(Path::new("evals/a.yaml"), text).unwrap_err();
        let errors = errors.iter();
        errors
            .map(|error| (error.line().unwrap(), error.message().to_owned()))
            .collect()
    }

    #[test]
    fn points_at_everything_that_is_wrong() {
        let text = "eval: 2\ncases:\n  - input: hi\n    expect:\n      output: { matches: '(' }\n  - name: b\n  - tool: look\n    input: text\n    expect: { max_steps: 1 }\n  - name: b\n    input: hi\n    expect:\n      output: { golden: ../x }\n      error: no\n      status: completed\n";
        let lines: Vec<usize> = errors(text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 5, 6, 8, 9, 13, 15]);
        let found = errors("eval: 1\ncases:\n  - inputs: hi\n");
        assert_eq!(found, [(3, "unknown key `inputs`".to_owned())]);
        assert_eq!(errors("eval: 1\ncases: []\n")[0].0, 2);
        let twice = "eval: 1\ncases:\n  - {name: a, input: x}\n  - {name: a, input: y}\n";
        assert_eq!(
            errors(twice),
            [(4, "another case is called `a`".to_owned())]
        );
    }

    #[test]
    fn reads_what_a_case_may_say() {
        let text = "eval: 1\ncases:\n  - input: { n: 1 }\n    model: offline\n    expect:\n      tools: [a, { tool: b, input: { x: 1 } }]\n      output: { contains: [one, two], golden: a/b.json }\n  - tool: look\n    expect: { error: broken }\n";
        let (file, _) = EvalFile::parse(Path::new("a.yaml"), text).unwrap();
        let [agent, tool] = file.cases.as_slice() else {
            panic!("{file:?}");
        };
        assert_eq!(agent.name, "case 1");
        assert_eq!(agent.model, EvalModel::Offline);
        let tools = agent.expect.tools.as_ref().unwrap();
        assert_eq!(tools[1].input, Some(json!({"x": 1})));
        assert_eq!(agent.expect.output.contains, ["one", "two"]);
        assert_eq!(tool.expect.status, ExpectedStatus::Failed);
        assert_eq!(
            tool.subject,
            EvalSubject::Tool {
                tool: "look".to_owned(),
                input: json!({})
            }
        );
    }

    #[test]
    fn nothing_can_be_asked_for_and_is_not_the_same_as_no_key() {
        let text = "eval: 1\ncases: [{input: x, expect: {output: {equals: null, json: null}}}, {input: x}]\n";
        let (file, _) = EvalFile::parse(Path::new("a.yaml"), text).unwrap();
        let output = &file.cases[0].expect.output;
        assert_eq!(output.equals, Some(Value::Null));
        assert_eq!(output.json, Some(Value::Null));
        assert_eq!(file.cases[1].expect.output, EvalOutput::default());
    }

    #[test]
    fn a_part_is_in_a_value_that_has_more_fields() {
        let value = json!({"a": {"b": 1, "c": [{"d": 1, "e": 2}]}, "f": null});
        for part in [
            json!({}),
            json!({"a": {"b": 1}}),
            json!({"a": {"c": [{"d": 1}]}}),
            json!({"f": null}),
        ] {
            assert!(json_contains(&value, &part), "{part}");
        }
        for part in [
            json!({"a": {"b": 2}}),
            json!({"a": {"c": []}}),
            json!({"g": null}),
            json!([]),
        ] {
            assert!(!json_contains(&value, &part), "{part}");
        }
    }
}
