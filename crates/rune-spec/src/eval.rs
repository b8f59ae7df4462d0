//! Evals (`evals/*.yaml`): cases on which an agent, or one of its tools, is tried.
//!
//! A case has an input and what is expected of the run. Beside them `evals/` holds cassettes
//! ([`CassetteFile`](crate::CassetteFile)) and, in `evals/golden/`, the outputs that cases are compared with.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cassette::ExpectedStatus;
use crate::checker::Checker;
use crate::document::{At, Document};
use crate::error::SpecErrors;

/// The version of the format.
pub const EVAL_VERSION: u32 = 1;
/// Where golden files are, in a package.
pub const GOLDEN_DIR: &str = "evals/golden";
/// Most cases of a file.
const MAX_CASES: usize = 1000;
/// Longest name of a case, in characters.
const MAX_NAME_CHARS: usize = 200;

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

/// What a person may write in an eval.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Eval")]
#[serde(deny_unknown_fields)]
pub(crate) struct EvalDocument {
    /// `1`, the version of the format.
    eval: u32,
    /// What the cases are about.
    description: Option<String>,
    /// The cases.
    cases: Vec<CaseDocument>,
}

/// One case.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "EvalCase")]
#[serde(deny_unknown_fields)]
struct CaseDocument {
    /// Unique within the file; `case N` when absent.
    name: Option<String>,
    /// What the agent is asked: a text, or JSON. With `tool` the input of the tool, an object.
    input: Option<Value>,
    /// Call this tool of the toolset instead of asking the agent.
    tool: Option<String>,
    /// Take the input and what models and tools say from this cassette, a file of `evals/`.
    cassette: Option<String>,
    /// Which models answer.
    #[serde(default)]
    model: EvalModel,
    /// What becomes of calls that the policy asks about; when absent nobody decides and the run ends `input-required`.
    approve: Option<bool>,
    /// What is expected; when absent that the run completes.
    #[serde(default)]
    expect: ExpectDocument,
}

/// What is expected of a run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "EvalExpect")]
#[serde(deny_unknown_fields)]
struct ExpectDocument {
    /// How it ends: `completed` when absent, `failed` with `error`.
    status: Option<ExpectedStatus>,
    /// What it answers.
    #[serde(default)]
    output: OutputDocument,
    /// A part of the message with which it fails.
    error: Option<String>,
    /// The tools that are called, in the order of the calls.
    tools: Option<Vec<CallDocument>>,
    /// No call of a tool may fail.
    #[serde(default)]
    no_tool_errors: bool,
    /// Most model turns.
    max_steps: Option<u32>,
    /// Most tokens, input and output.
    max_tokens: Option<u64>,
}

/// What an answer has to be; all of what is named.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "EvalOutput")]
#[serde(deny_unknown_fields)]
struct OutputDocument {
    /// This value.
    equals: Option<Value>,
    /// This text is in it, or all of these.
    #[serde(default)]
    contains: OneOrMore,
    /// This regular expression is found in it.
    matches: Option<String>,
    /// It has this JSON in it: objects may have more fields.
    json: Option<Value>,
    /// It is valid against this JSON Schema.
    schema: Option<Value>,
    /// It is what this file below `evals/golden/` holds; `rune eval --update` writes it.
    golden: Option<String>,
}

/// A text, or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text, or a list of texts")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

/// The name of a tool, or the name with what its input has in it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected the name of a tool, or a map with `tool` and `input`"
)]
enum CallDocument {
    Name(String),
    Call(CallWithInput),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "EvalCall")]
#[serde(deny_unknown_fields)]
struct CallWithInput {
    /// The name in the toolset.
    tool: String,
    /// What its input has in it: objects may have more fields.
    input: Option<Value>,
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
                let case = validate(&mut checker, &at, index, case);
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
    /// An error at a key of a case, counted from 0.
    pub fn case(
        &self,
        index: usize,
        key: &str,
        message: impl Into<String>,
    ) -> crate::error::SpecError {
        let at = At::top("cases").index(index).field(key);
        self.0.error(&at, message)
    }
}

fn validate(
    checker: &mut Checker<'_>,
    at: &At,
    index: usize,
    case: CaseDocument,
) -> Option<EvalCase> {
    let name = case.name.unwrap_or_else(|| format!("case {}", index + 1));
    checker.filled(&at.field("name"), "`name`", &name);
    if name.chars().count() > MAX_NAME_CHARS || name.contains(char::is_control) {
        checker.error(
            &at.field("name"),
            format!("`name` is one line of at the most {MAX_NAME_CHARS} characters"),
        );
    }
    let expect = expectations(checker, &at.field("expect"), case.expect);
    let is_tool = case.tool.is_some();
    let subject = match (case.input, case.tool, case.cassette) {
        (Some(input), Some(tool), None) => {
            if !input.is_object() {
                checker.error(&at.field("input"), "the input of a tool is a map");
            }
            EvalSubject::Tool { tool, input }
        }
        (None, Some(tool), None) => EvalSubject::Tool {
            tool,
            input: Value::Object(serde_json::Map::new()),
        },
        (Some(input), None, None) => EvalSubject::Agent(input),
        (None, None, Some(cassette)) => {
            EvalSubject::Cassette(checker.inner_path(&at.field("cassette"), &cassette)?)
        }
        (None, None, None) => {
            checker.error(at, "a case needs `input`, `tool` or `cassette`");
            return None;
        }
        (_, _, Some(_)) => {
            let message = "a cassette has an input of its own: leave out `input` and `tool`";
            checker.error(&at.field("cassette").key(), message);
            return None;
        }
    };
    let named = [
        ("tools", expect.tools.is_some()),
        ("max_steps", expect.max_steps.is_some()),
        ("max_tokens", expect.max_tokens.is_some()),
        ("no_tool_errors", expect.no_tool_errors),
    ];
    for (key, _) in named.iter().filter(|(_, named)| is_tool && *named) {
        let at = at.field("expect").field(key).key();
        checker.error(
            &at,
            format!("`{key}` is about an agent, and the case is about a tool"),
        );
    }
    if !matches!(subject, EvalSubject::Agent(_)) && case.model != EvalModel::Own {
        let message = "`model` is for a case in which the agent is asked";
        checker.error(&at.field("model").key(), message);
    }
    Some(EvalCase {
        name,
        subject,
        model: case.model,
        approve: case.approve,
        expect,
    })
}

fn expectations(checker: &mut Checker<'_>, at: &At, expect: ExpectDocument) -> EvalExpectations {
    let implied = match &expect.error {
        Some(_) => ExpectedStatus::Failed,
        None => ExpectedStatus::Completed,
    };
    let status = expect.status.unwrap_or(implied);
    if expect.error.is_some() && status != ExpectedStatus::Failed {
        let message = "a run that is to have an error is to be `failed`";
        checker.error(&at.field("status"), message);
    }
    let document = expect.output;
    let output = at.field("output");
    if let Some(Err(error)) = document.matches.as_deref().map(Regex::new) {
        let message = format!("not a regular expression: {error}");
        checker.error(&output.field("matches"), message);
    }
    if let Some(schema) = &document.schema {
        checker.json_schema(&output.field("schema"), schema);
    }
    let golden = document
        .golden
        .and_then(|golden| checker.inner_path(&output.field("golden"), &golden));
    let tools = expect.tools.map(|tools| {
        let calls = tools.into_iter().map(|call| match call {
            CallDocument::Name(tool) => EvalCall { tool, input: None },
            CallDocument::Call(CallWithInput { tool, input }) => EvalCall { tool, input },
        });
        calls.collect()
    });
    EvalExpectations {
        status,
        output: EvalOutput {
            equals: document.equals,
            contains: match document.contains {
                OneOrMore::One(text) => vec![text],
                OneOrMore::More(texts) => texts,
            },
            matches: document.matches,
            json: document.json,
            schema: document.schema,
            golden,
        },
        error: expect.error,
        tools,
        no_tool_errors: expect.no_tool_errors,
        max_steps: expect.max_steps,
        max_tokens: expect.max_tokens,
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
