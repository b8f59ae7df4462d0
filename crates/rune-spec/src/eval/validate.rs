//! What has to hold of an eval beyond its form.

use std::path::PathBuf;

use regex::Regex;
use serde_json::Value;

use super::document::{CallDocument, CaseDocument, ExpectDocument, OneOrMore, OutputDocument};
use super::{EvalCall, EvalCase, EvalExpectations, EvalOutput, EvalSubject};
use crate::cassette::ExpectedStatus;
use crate::checker::{Checker, path_below};
use crate::document::At;

/// Longest name of a case, in characters.
const MAX_NAME_CHARS: usize = 200;

/// The case at `at`, the `index`-th of its file; `None` where it does not say what it tries.
pub(super) fn case(
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
            let path = path_below("evals/", &cassette);
            EvalSubject::Cassette(checker.take(&at.field("cassette"), path)?)
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
    match &subject {
        EvalSubject::Agent(_) => {}
        EvalSubject::Tool { .. } => {
            let named = [
                ("tools", expect.tools.is_some()),
                ("max_steps", expect.max_steps.is_some()),
                ("max_tokens", expect.max_tokens.is_some()),
                ("no_tool_errors", expect.no_tool_errors),
            ];
            for (key, _) in named.iter().filter(|(_, is_named)| *is_named) {
                let at = at.field("expect").field(key).key();
                let message = format!("`{key}` is about an agent, and the case is about a tool");
                checker.error(&at, message);
            }
        }
        EvalSubject::Cassette(_) => {
            let named = [
                ("model", case.model.is_some(), "what the models said"),
                ("approve", case.approve.is_some(), "what people decided"),
            ];
            for (key, _, held) in named.iter().filter(|(_, is_named, _)| *is_named) {
                let message = format!("a cassette holds {held}: leave out `{key}`");
                checker.error(&at.field(key).key(), message);
            }
        }
    }
    Some(EvalCase {
        name,
        subject,
        model: case.model.unwrap_or_default(),
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
    let output = output(checker, &at.field("output"), expect.output);
    if status != ExpectedStatus::Completed && output != EvalOutput::default() {
        let message = "a run that does not complete has no output to compare";
        checker.error(&at.field("output").key(), message);
    }
    let tools = expect.tools.map(|tools| {
        let calls = tools.into_iter().enumerate();
        let calls = calls.map(|(index, call)| match call {
            CallDocument::Name(tool) => EvalCall { tool, input: None },
            CallDocument::Call(call) => {
                if call.input.as_ref().is_some_and(|input| !input.is_object()) {
                    let at = at.field("tools").index(index).field("input");
                    checker.error(&at, "the input of a tool is a map");
                }
                EvalCall {
                    tool: call.tool,
                    input: call.input,
                }
            }
        });
        calls.collect()
    });
    EvalExpectations {
        status,
        output,
        error: expect.error,
        tools,
        no_tool_errors: expect.no_tool_errors,
        max_steps: expect.max_steps,
        max_tokens: expect.max_tokens,
    }
}

fn output(checker: &mut Checker<'_>, at: &At, document: OutputDocument) -> EvalOutput {
    if let Some(Err(error)) = document.matches.as_deref().map(Regex::new) {
        let message = format!("not a regular expression: {error}");
        checker.error(&at.field("matches"), message);
    }
    if let Some(schema) = &document.schema {
        checker.json_schema(&at.field("schema"), schema);
    }
    let contains = match document.contains {
        None => Vec::new(),
        Some(OneOrMore::One(text)) => vec![text],
        Some(OneOrMore::More(texts)) => {
            if texts.is_empty() {
                checker.error(&at.field("contains"), "there is no text to look for");
            }
            texts
        }
    };
    if contains.iter().any(String::is_empty) {
        let message = "a text without a character is in every answer";
        checker.error(&at.field("contains"), message);
    }
    let golden = document.golden.and_then(|golden| -> Option<PathBuf> {
        let path = path_below("evals/golden/", &golden);
        checker.take(&at.field("golden"), path)
    });
    EvalOutput {
        equals: document.equals,
        contains,
        matches: document.matches,
        json: document.json,
        schema: document.schema,
        golden,
    }
}
