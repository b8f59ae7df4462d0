//! What came of the cases: a table and what differs, or JSON.

use serde_json::{Value, json};

use super::files::Case;
use super::judge::Verdict;
use super::trial::Run;
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{one_line, printable, shortened, table};

/// Longest value that is shown in a table.
const VALUE_CHARS: usize = 60;

/// Prints the cases and answers how many failed.
pub(super) fn print(context: &Context, results: &[(&Case, Run, Verdict)]) -> Outcome<usize> {
    let failed = results
        .iter()
        .filter(|(_, _, verdict)| !verdict.unmet.is_empty())
        .count();
    let updated = results
        .iter()
        .filter(|(_, _, verdict)| verdict.updated.is_some())
        .count();
    let cases: Vec<Value> = results.iter().map(row).collect();
    let value = json!({
        "passed": results.len() - failed,
        "failed": failed,
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
        for (case, _, verdict) in results {
            for (unmet, diff) in verdict
                .unmet
                .iter()
                .filter_map(|it| Some((it, it.diff.as_ref()?)))
            {
                text.push_str(&format!(
                    "\n\n{}, {}:\n{}",
                    one_line(&case.title()),
                    unmet.field,
                    printable(diff).trim_end()
                ));
            }
        }
        let passed = results.len() - failed;
        let written = match updated {
            0 => String::new(),
            1 => ", 1 golden file written".to_owned(),
            count => format!(", {count} golden files written"),
        };
        format!("{text}\n\n{passed} passed, {failed} failed{written}")
    })?;
    Ok(failed)
}

fn result(verdict: &Verdict) -> &'static str {
    match (verdict.unmet.is_empty(), &verdict.updated) {
        (false, _) => "failed",
        (true, Some(_)) => "updated",
        (true, None) => "passed",
    }
}

/// A case for programs.
fn row((case, run, verdict): &(&Case, Run, Verdict)) -> Value {
    let tools: Vec<&str> = run.calls.iter().map(|call| call.tool.as_str()).collect();
    json!({
        "file": case.file,
        "case": case.case.name,
        "result": result(verdict),
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

/// A case for people: one line, or one for each expectation that is not met.
fn lines((case, run, verdict): &(&Case, Run, Verdict)) -> Vec<Value> {
    let short = |value: &Value| shortened(&one_line(&value.to_string()), VALUE_CHARS);
    let line = json!({
        "case": case.title(),
        "result": result(verdict),
        "steps": run.steps,
        "tokens": run.tokens,
        "duration_ms": run.duration_ms,
    });
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
