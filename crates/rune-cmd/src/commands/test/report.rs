//! What came of the cases: a table, JSON, JUnit XML.

use std::fmt::Write as _;
use std::path::Path;

use rune_runtime::Played;
use serde_json::{Value, json};

use super::play::Case;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{one_line, shortened, table};

/// Longest value that is shown in a table.
const VALUE_CHARS: usize = 60;

/// Cases, what came of each, and the requests of which there is none.
pub(super) struct Report<'a> {
    pub(super) cases: &'a [Case],
    pub(super) results: Vec<Played>,
    pub(super) skipped: Vec<(String, String)>,
}

impl Report<'_> {
    /// How many did not pass.
    pub(super) fn failed(&self) -> usize {
        self.results.iter().filter(|played| !played.passed).count()
    }

    pub(super) fn print(&self, context: &Context) -> Outcome<()> {
        let cases: Vec<Value> = self
            .each()
            .map(|(case, played)| row(case, played))
            .collect();
        let skipped = self.skipped.iter();
        let skipped: Vec<Value> = skipped
            .map(|(id, reason)| json!({ "request": id, "reason": reason }))
            .collect();
        let failed = self.failed();
        let value = json!({
            "passed": cases.len() - failed,
            "failed": failed,
            "skipped": skipped.len(),
            "cases": cases,
            "not_played": skipped,
        });
        context.output.data(&value, |value| {
            let columns = [
                ("CASE", "/case"),
                ("RESULT", "/result"),
                ("STEP", "/step"),
                ("FIELD", "/field"),
                ("RECORDED", "/recorded"),
                ("NOW", "/now"),
            ];
            let mut rows: Vec<Value> = self.each().flat_map(|(case, played)| lines(case, played)).collect();
            rows.extend(self.skipped.iter().map(|(id, reason)| {
                json!({ "case": id, "result": "skipped", "step": shortened(reason, 2 * VALUE_CHARS) })
            }));
            format!(
                "{}\n\n{} passed, {} failed, {} skipped",
                table(&rows, &columns),
                value["passed"],
                value["failed"],
                value["skipped"]
            )
        })
    }

    fn each(&self) -> impl Iterator<Item = (&Case, &Played)> {
        self.cases.iter().zip(&self.results)
    }

    /// Writes JUnit XML.
    pub(super) fn write_junit(&self, path: &Path) -> Outcome<()> {
        let (tests, failed, skipped) = (
            self.cases.len() + self.skipped.len(),
            self.failed(),
            self.skipped.len(),
        );
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"rune test\" tests=\"{tests}\" failures=\"{failed}\" skipped=\"{skipped}\">\n"
        );
        for (case, played) in self.each() {
            let name = escaped(&case.name);
            let agent = escaped(&case.cassette.file().agent);
            let _ = write!(xml, "  <testcase classname=\"{agent}\" name=\"{name}\"");
            if played.passed {
                xml.push_str("/>\n");
                continue;
            }
            let text: Vec<String> = lines(case, played).iter().map(sentence).collect();
            let text = escaped(&text.join("\n"));
            let _ = writeln!(xml, ">\n    <failure message=\"{text}\"/>\n  </testcase>");
        }
        for (id, reason) in &self.skipped {
            let (id, reason) = (escaped(id), escaped(reason));
            let _ = writeln!(
                xml,
                "  <testcase classname=\"requests\" name=\"{id}\">\n    <skipped message=\"{reason}\"/>\n  </testcase>"
            );
        }
        xml.push_str("</testsuite>\n");
        std::fs::write(path, xml)
            .map_err(|error| Failure::because(format!("cannot write {}", path.display()), &error))
    }
}

/// A case for programs.
fn row(case: &Case, played: &Played) -> Value {
    let mut row = json!({ "case": case.name });
    if let (Some(row), Ok(Value::Object(played))) =
        (row.as_object_mut(), serde_json::to_value(played))
    {
        row.extend(played);
    }
    row
}

/// A case for people: one line, or one for each expectation that is not met.
fn lines(case: &Case, played: &Played) -> Vec<Value> {
    let short = |value: &Value| shortened(&one_line(&value.to_string()), VALUE_CHARS);
    if let Some(found) = &played.divergence {
        let (recorded, now) = found.parted();
        return vec![json!({
            "case": case.name,
            "result": "failed",
            "step": format!("{} {}", found.seq, found.kind),
            "field": found.field,
            "recorded": short(&recorded),
            "now": short(&now),
        })];
    }
    if played.passed {
        return vec![json!({ "case": case.name, "result": "passed" })];
    }
    let unmet = played.unmet.iter().map(|unmet| {
        json!({
            "case": case.name,
            "result": "failed",
            "step": "expect",
            "field": unmet.field,
            "recorded": short(&unmet.expected),
            "now": short(&unmet.found),
        })
    });
    unmet.collect()
}

fn sentence(line: &Value) -> String {
    let word = |name: &str| line[name].as_str().unwrap_or_default();
    format!(
        "{}{}: recorded {}, now {}",
        word("step"),
        word("field"),
        word("recorded"),
        word("now")
    )
}

/// Text within an XML attribute.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            // XML has no way to write the others.
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn text_cannot_leave_its_attribute() {
        assert_eq!(
            escaped("a\"b<c>&\u{1b}\n"),
            "a&quot;b&lt;c&gt;&amp;\u{fffd}&#10;"
        );
    }
}
