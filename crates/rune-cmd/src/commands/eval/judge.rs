//! What came of a case, compared with what is expected.

use std::path::{Path, PathBuf};

use regex::Regex;
use rune_spec::{
    AgentPackage, EvalExpectations, EvalOutput, GOLDEN_DIR, MAX_FILE_BYTES, json_contains,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::trial::Run;
use crate::commands::known_secrets::Secrets;
use crate::failure::{Failure, Outcome};
use crate::prompt;

/// Breaches of a schema that are told.
const SCHEMA_ERRORS: usize = 5;

/// Where golden files are, and whether they are written.
pub(super) struct Golden<'a> {
    /// The agent that has them.
    pub(super) package: &'a AgentPackage,
    pub(super) update: bool,
    /// What does not belong into a file.
    pub(super) secrets: Secrets,
}

/// What is to be said of a case.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// What is not as it has to be.
    pub(super) unmet: Vec<Unmet>,
    /// The golden file that was written, relative to the agent.
    pub(super) updated: Option<PathBuf>,
}

/// An expectation that is not met.
#[derive(Debug, Serialize)]
pub(super) struct Unmet {
    /// JSON Pointer below `expect`.
    pub(super) field: &'static str,
    pub(super) expected: Value,
    pub(super) found: Value,
    /// Line by line, where that says more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) diff: Option<String>,
}

impl Verdict {
    fn expect(&mut self, is_met: bool, field: &'static str, expected: Value, found: Value) {
        if !is_met {
            self.unmet.push(Unmet {
                field,
                expected,
                found,
                diff: None,
            });
        }
    }
}

/// Compares a run with what is expected of it.
pub(super) fn judge(expect: &EvalExpectations, run: &Run, golden: &Golden<'_>) -> Outcome<Verdict> {
    let mut verdict = Verdict::default();
    let wanted = expect.status.as_str();
    if run.status != wanted {
        let found = match &run.error {
            Some(error) => format!("{}: {error}", run.status),
            None => run.status.to_owned(),
        };
        verdict.expect(false, "/status", json!(wanted), json!(found));
    }
    if let Some(part) = &expect.error {
        let error = run.error.as_deref().unwrap_or_default();
        verdict.expect(error.contains(part), "/error", json!(part), json!(error));
    }
    // What a run that did not end as it should has answered says nothing.
    if run.status == wanted {
        output(&mut verdict, &expect.output, &run.output);
        if let Some(path) = &expect.output.golden {
            against_file(&mut verdict, golden, path, &run.output)?;
        }
    }
    if let Some(tools) = &expect.tools {
        let is_same = tools.len() == run.calls.len()
            && tools.iter().zip(&run.calls).all(|(wanted, call)| {
                let is_input = |part: &Value| json_contains(&call.input, part);
                wanted.tool == call.tool && wanted.input.as_ref().is_none_or(is_input)
            });
        let shown = |tool: &str, input: Option<&Value>| match input {
            Some(input) => json!({ "tool": tool, "input": input }),
            None => json!(tool),
        };
        let has_input = tools.iter().any(|wanted| wanted.input.is_some());
        let wanted = tools.iter().map(|it| shown(&it.tool, it.input.as_ref()));
        let found = run
            .calls
            .iter()
            .map(|it| shown(&it.tool, has_input.then_some(&it.input)));
        verdict.expect(is_same, "/tools", wanted.collect(), found.collect());
    }
    if expect.no_tool_errors {
        let failed = run.calls.iter().filter_map(|call| {
            let error = call.error.as_ref()?;
            Some(json!(format!("{}: {error}", call.tool)))
        });
        let failed: Vec<Value> = failed.collect();
        verdict.expect(
            failed.is_empty(),
            "/no_tool_errors",
            json!(true),
            failed.into(),
        );
    }
    if let Some(most) = expect.max_steps {
        verdict.expect(
            run.steps <= most,
            "/max_steps",
            json!(most),
            json!(run.steps),
        );
    }
    if let Some(most) = expect.max_tokens {
        verdict.expect(
            run.tokens <= most,
            "/max_tokens",
            json!(most),
            json!(run.tokens),
        );
    }
    Ok(verdict)
}

fn output(verdict: &mut Verdict, expect: &EvalOutput, output: &Value) {
    let text = match output {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if let Some(wanted) = expect.equals.as_ref().filter(|wanted| *wanted != output) {
        verdict.unmet.push(Unmet {
            field: "/output/equals",
            expected: wanted.clone(),
            found: output.clone(),
            diff: Some(diff(&prompt::answer(wanted), &prompt::answer(output))),
        });
    }
    for part in &expect.contains {
        let is_met = text.contains(part);
        verdict.expect(is_met, "/output/contains", json!(part), output.clone());
    }
    if let Some(pattern) = &expect.matches {
        // That it is one was checked when the file was read.
        let is_met = Regex::new(pattern).is_ok_and(|regex| regex.is_match(&text));
        verdict.expect(is_met, "/output/matches", json!(pattern), output.clone());
    }
    let value = as_json(output);
    if let Some(part) = &expect.json {
        let is_met = json_contains(&value, part);
        verdict.expect(is_met, "/output/json", part.clone(), value.clone());
    }
    if let Some(schema) = &expect.schema
        && let Ok(validator) = jsonschema::validator_for(schema)
    {
        let errors = validator.iter_errors(&value).take(SCHEMA_ERRORS);
        let errors = errors.map(|error| format!("{error} (at `{}`)", error.instance_path()));
        let errors: Vec<Value> = errors.map(Value::from).collect();
        verdict.expect(
            errors.is_empty(),
            "/output/schema",
            schema.clone(),
            errors.into(),
        );
    }
}

/// An answer as JSON: that of a text that holds some.
fn as_json(output: &Value) -> Value {
    match output {
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| output.clone()),
        other => other.clone(),
    }
}

/// Compares an output with a golden file, or writes that.
fn against_file(
    verdict: &mut Verdict,
    golden: &Golden<'_>,
    relative: &Path,
    output: &Value,
) -> Outcome<()> {
    let package = golden.package;
    let relative = Path::new(GOLDEN_DIR).join(relative);
    let shown = relative.display().to_string();
    let found = prompt::answer(output);
    let is_there = package.dir.join(&relative).symlink_metadata().is_ok();
    let expected = is_there.then(|| package.text(&relative)).transpose();
    let expected = expected.map_err(|error| Failure::usage(error.to_string()))?;
    if expected
        .as_ref()
        .is_some_and(|expected| is_same(expected, &found))
    {
        return Ok(());
    }
    if golden.update {
        if let Some(name) = golden.secrets.found_in(&found) {
            let message = format!(
                "{shown} would hold the value of {name}, which does not belong into a file"
            );
            return Err(Failure::usage(message));
        }
        let end = if found.ends_with('\n') { "" } else { "\n" };
        let text = format!("{found}{end}");
        if text.len() as u64 > MAX_FILE_BYTES {
            let message = format!(
                "{shown} would have {} bytes, and {MAX_FILE_BYTES} are allowed",
                text.len()
            );
            return Err(Failure::usage(message));
        }
        let written = package.write(&relative, &text);
        written.map_err(|error| Failure::usage(error.to_string()))?;
        verdict.updated = Some(relative);
        return Ok(());
    }
    let diff = expected.as_ref().map(|expected| diff(expected, &found));
    let expected = match expected {
        Some(_) => shown,
        None => format!("{shown}, which is missing: `rune eval --update` writes it"),
    };
    verdict.unmet.push(Unmet {
        field: "/output/golden",
        expected: expected.into(),
        found: output.clone(),
        diff,
    });
    Ok(())
}

/// Whether a golden file says what an output does: with or without a line end behind it.
fn is_same(expected: &str, found: &str) -> bool {
    let expected = expected.strip_suffix('\n').unwrap_or(expected);
    expected == found.strip_suffix('\n').unwrap_or(found)
}

/// What differs, line by line.
fn diff(expected: &str, found: &str) -> String {
    let whole = |text: &str| format!("{}\n", text.strip_suffix('\n').unwrap_or(text));
    let mut options = diffy::DiffOptions::new();
    options.set_original_filename("expected");
    options.set_modified_filename("found");
    options
        .create_patch(&whole(expected), &whole(found))
        .to_string()
}

#[cfg(test)]
mod tests {
    use rune_spec::EvalFile;

    use super::*;

    fn fields(expect: &str, run: &Run) -> Vec<&'static str> {
        let text = format!("eval: 1\ncases: [{{input: x, expect: {expect}}}]\n");
        let (file, _) = EvalFile::parse(Path::new("a.yaml"), &text).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let runefile = "name: a\nversion: 0.1.0\ninstructions: Hi.\ndefault_model: m\n";
        std::fs::write(dir.path().join("Runefile"), runefile).unwrap();
        let golden = Golden {
            package: &AgentPackage::load(dir.path()).unwrap(),
            update: false,
            secrets: Secrets::new([]),
        };
        let verdict = judge(&file.cases[0].expect, run, &golden).unwrap();
        verdict.unmet.iter().map(|unmet| unmet.field).collect()
    }

    fn said(output: Value) -> Run {
        Run {
            status: "completed",
            output,
            steps: 2,
            tokens: 100,
            ..Run::default()
        }
    }

    #[test]
    fn every_expectation_can_fail_and_be_met() {
        let run = said(json!("{\"a\": 1, \"b\": [2]}"));
        for (expect, unmet) in [
            ("{}", None),
            ("{status: failed}", Some("/status")),
            ("{error: x}", Some("/status")),
            ("{output: {contains: '\"a\"'}}", None),
            (
                "{output: {contains: ['\"a\"', c]}}",
                Some("/output/contains"),
            ),
            ("{output: {matches: '^.\"a'}}", None),
            ("{output: {matches: '^a'}}", Some("/output/matches")),
            ("{output: {equals: {a: 1, b: [2]}}}", Some("/output/equals")),
            ("{output: {json: {a: 1}}}", None),
            ("{output: {json: {a: 2}}}", Some("/output/json")),
            ("{output: {equals: null}}", Some("/output/equals")),
            ("{output: {json: null}}", Some("/output/json")),
            ("{output: {schema: {required: [b]}}}", None),
            (
                "{output: {schema: {required: [c]}}}",
                Some("/output/schema"),
            ),
            ("{output: {golden: x.txt}}", Some("/output/golden")),
            ("{tools: []}", None),
            ("{tools: [look]}", Some("/tools")),
            (
                "{max_steps: 2, max_tokens: 100, no_tool_errors: true}",
                None,
            ),
            ("{max_steps: 1}", Some("/max_steps")),
            ("{max_tokens: 99}", Some("/max_tokens")),
        ] {
            let found = fields(expect, &run);
            assert_eq!(found.first().copied(), unmet, "{expect}: {found:?}");
        }
    }

    #[test]
    fn a_golden_file_may_end_with_a_line_end() {
        assert!(is_same("a\n", "a") && is_same("a", "a\n") && is_same("a\n", "a\n"));
        assert!(!is_same("a\n\n", "a"));
    }
}
