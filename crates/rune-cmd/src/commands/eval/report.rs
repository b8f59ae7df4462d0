//! What came of the cases: a table and what differs, or JSON.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Tried;
use super::judge::Verdict;
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{one_line, printable, shortened, table};

/// Longest value that is shown in a table, in characters.
const VALUE_CHARS: usize = 60;

/// Prints the cases and answers how many passed. `not_run` are those that were not reached.
pub(super) fn print(context: &Context, results: &[Tried<'_>], not_run: usize) -> Outcome<usize> {
    let count = |result: &str| results.iter().filter(|it| it.result() == result).count();
    let (failed, errors) = (count("failed"), count("error"));
    let passed = results.len() - failed - errors;
    let updated: Vec<&PathBuf> = results.iter().filter_map(Tried::updated).collect();
    let cases: Vec<Value> = results.iter().map(row).collect();
    let value = json!({
        "passed": passed,
        "failed": failed,
        "errors": errors,
        "not_run": not_run,
        "updated": updated,
        "cases": cases,
    });
    context.output.data(&value, |_| {
        let rows: Vec<Value> = results.iter().flat_map(lines).collect();
        let columns = [
            ("CASE", "/case"),
            ("RESULT", "/result"),
            ("STEPS", "/steps"),
            ("TOKENS", "/tokens"),
            ("MS", "/duration_ms"),
            ("FIELD", "/field"),
            ("EXPECTED", "/expected"),
            ("FOUND", "/found"),
        ];
        let mut text = table(&rows, &columns);
        for tried in results {
            text.push_str(&details(tried));
        }
        text.push_str("\n\n");
        for path in &updated {
            text.push_str(&format!("wrote {}\n", path.display()));
        }
        text.push_str(&format!("{passed} passed, {failed} failed"));
        let more = [(errors, "could not be run"), (not_run, "not run")];
        for (count, what) in more.into_iter().filter(|(count, _)| *count > 0) {
            text.push_str(&format!(", {count} {what}"));
        }
        text
    })?;
    Ok(passed)
}

impl Tried<'_> {
    /// One word for what came of it.
    fn result(&self) -> &'static str {
        match &self.ended {
            Err(_) => "error",
            Ok((_, verdict)) if !verdict.unmet.is_empty() => "failed",
            Ok((_, Verdict { updated, .. })) if updated.is_some() => "updated",
            Ok(_) => "passed",
        }
    }

    /// The golden file that was written.
    fn updated(&self) -> Option<&PathBuf> {
        self.ended.as_ref().ok()?.1.updated.as_ref()
    }
}

/// A case for programs.
fn row(tried: &Tried<'_>) -> Value {
    let mut value = json!({
        "file": tried.case.file,
        "case": tried.case.case.name,
        "result": tried.result(),
    });
    let more = match &tried.ended {
        Err(failure) => json!({ "unmet": [], "error": failure.message(), "help": failure.hint() }),
        Ok((run, verdict)) => {
            let tools: Vec<&str> = run.calls.iter().map(|call| call.tool.as_str()).collect();
            json!({
                "unmet": verdict.unmet,
                "updated": verdict.updated,
                "status": run.status,
                "output": run.output,
                "error": run.error,
                "tools": tools,
                "steps": run.steps,
                "tokens": run.tokens,
                "duration_ms": run.duration_ms,
            })
        }
    };
    if let (Some(fields), Value::Object(more)) = (value.as_object_mut(), more) {
        fields.extend(more);
    }
    value
}

/// A case for people: one line, or one for each expectation that is not met.
fn lines(tried: &Tried<'_>) -> Vec<Value> {
    let short = |value: &Value| shortened(&one_line(&value.to_string()), VALUE_CHARS);
    let mut line = json!({ "case": tried.case.title(), "result": tried.result() });
    let (run, verdict) = match &tried.ended {
        Ok(ended) => ended,
        Err(_) => return vec![line],
    };
    line["steps"] = run.steps.into();
    line["tokens"] = run.tokens.into();
    line["duration_ms"] = run.duration_ms.into();
    if verdict.unmet.is_empty() {
        return vec![line];
    }
    let lines = verdict.unmet.iter().map(|unmet| {
        let mut line = line.clone();
        line["field"] = unmet.field.into();
        line["expected"] = short(&unmet.expected).into();
        line["found"] = short(&unmet.found).into();
        line
    });
    lines.collect()
}

/// What of a case has no place in a table: why it could not be run, and what differs, line by line.
fn details(tried: &Tried<'_>) -> String {
    let title = one_line(&tried.case.title());
    match &tried.ended {
        Err(failure) => {
            let message = printable(failure.message());
            let help = failure.hint().map(|hint| format!("\n  help: {hint}"));
            format!("\n\n{title}: {message}{}", help.unwrap_or_default())
        }
        Ok((_, verdict)) => {
            let unmet = verdict.unmet.iter();
            let diffs = unmet.filter_map(|it| Some((it.field, it.diff.as_ref()?)));
            let shown = diffs.map(|(field, diff)| {
                format!("\n\n{title}, {field}:\n{}", printable(diff).trim_end())
            });
            shown.collect()
        }
    }
}
