//! What a run that was played came to.

use rune_spec::Expectations;
use rune_store_runtime::{AuditVerdict, Entry, EntryBody, RequestStatus};
use serde::Serialize;
use serde_json::{Value, json};

use crate::replay::Divergence;

/// What came of playing a cassette.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Played {
    /// Whether everything is as it has to be.
    pub passed: bool,
    /// The first step that is not as it was recorded, where everything has to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// The expectations that are not met, where the cassette names some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<Unmet>,
    /// The journal of the run.
    #[serde(skip)]
    pub journal: Vec<Entry>,
}

/// An expectation that is not met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unmet {
    /// JSON Pointer of the expectation, such as `/output`.
    pub field: String,
    /// What was expected.
    pub expected: Value,
    /// What it is.
    pub found: Value,
}

/// The expectations that a run does not meet.
pub(crate) fn unmet(expect: &Expectations, written: &[Entry]) -> Vec<Unmet> {
    let mut unmet = Vec::new();
    let mut check = |field: String, expected: Value, found: Value| {
        unmet.push(Unmet {
            field,
            expected,
            found,
        });
    };
    let (status, output) = ending(written);
    if let Some(wanted) = expect.status.map(rune_spec::ExpectedStatus::as_str)
        && wanted != status.as_str()
    {
        check("/status".to_owned(), json!(wanted), json!(status.as_str()));
    }
    if let Some(wanted) = &expect.output
        && let Some(mismatch) = wanted.mismatch(&output)
    {
        check("/output".to_owned(), json!(mismatch), output);
    }
    if let Some(wanted) = &expect.tools {
        let called = called(written);
        if *wanted != called {
            check("/tools".to_owned(), json!(wanted), json!(called));
        }
    }
    for (tool, wanted) in &expect.verdicts {
        let decided = decided(written, tool);
        let as_wanted = |verdict: &&str| *verdict == wanted.as_str();
        if decided.is_empty() || !decided.iter().all(as_wanted) {
            check(
                format!("/verdicts/{tool}"),
                json!(wanted.as_str()),
                json!(decided),
            );
        }
    }
    unmet
}

fn ending(written: &[Entry]) -> (RequestStatus, Value) {
    match written.last().map(|entry| &entry.body) {
        Some(EntryBody::Finished { status, output, .. }) => {
            (*status, output.clone().unwrap_or_default())
        }
        _ => (RequestStatus::InputRequired, Value::Null),
    }
}

/// The tools that were called, refused calls included, in the order of the calls.
fn called(written: &[Entry]) -> Vec<String> {
    let mut calls: Vec<(&str, &str)> = Vec::new();
    for entry in written {
        let (id, tool) = match &entry.body {
            EntryBody::ToolIntent(intent) => (&intent.call_id, &intent.tool),
            EntryBody::ToolResult(outcome) => (&outcome.call_id, &outcome.tool),
            EntryBody::ApprovalAsked(question) => (&question.call_id, &question.tool),
            _ => continue,
        };
        if !calls.iter().any(|(known, _)| known == id) {
            calls.push((id, tool));
        }
    }
    calls.into_iter().map(|(_, tool)| tool.to_owned()).collect()
}

fn decided(written: &[Entry], tool: &str) -> Vec<&'static str> {
    let verdicts = written.iter().filter_map(|entry| match &entry.body {
        EntryBody::PolicyVerdict(verdict) if verdict.resource == tool => {
            Some(AuditVerdict::as_str(verdict.verdict))
        }
        _ => None,
    });
    verdicts.collect()
}
