//! `script.yaml`: what the `offline` model answers.
//!
//! A script is a list of rules. For every model turn the first rule whose `match` fits plays; `match` may say what the
//! input is (`equals`, `contains`, `glob`), which turn of the request it is (`step`, from 1) and which tool has just
//! answered (`after_tool`). A rule without `match` always fits. What it plays: `respond` (text), `tool_calls`, both,
//! or `error`; `delay_ms` waits first. `respond` and every string in a tool call's input are templates over `input`,
//! `step`, `results` (a list of `{name, output}` of the last tool calls) and `result` (the output of the last one).
//!
//! ```yaml
//! rules:
//!   - match: { contains: time, step: 1 }
//!     tool_calls: [{ name: rune__system-time, input: { timezone: UTC } }]
//!   - match: { after_tool: rune__system-time }
//!     respond: "It is {{ result.rfc3339 }}."
//!   - respond: "You said: {{ input }}"
//! ```

use std::path::Path;
use std::time::Duration;

use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::checker::Checker;
use crate::document::{At, Document};
use crate::error::SpecErrors;
use crate::policy::Glob;

/// Steps one template of a script may take, so that a loop ends.
const TEMPLATE_FUEL: u64 = 100_000;

/// A valid script.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    rules: Vec<Rule>,
}

/// One turn of the model, as the script sees it.
#[derive(Debug, Clone, Copy)]
pub struct ScriptTurn<'a> {
    /// The user's last message.
    pub input: &'a str,
    /// The turn within the request, from 1.
    pub step: u32,
    /// What the tool calls of the previous turn gave, in order; empty on the first turn.
    pub results: &'a [ScriptToolResult<'a>],
}

/// What one tool call gave.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ScriptToolResult<'a> {
    /// The tool's model-visible name.
    pub name: &'a str,
    /// Its output, or `{"error": …}`.
    pub output: &'a Value,
}

/// What the model does in one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptReply {
    /// Wait before anything else.
    pub delay: Duration,
    /// Text of the turn; may be empty.
    pub text: String,
    /// Tool calls of the turn; empty ends the request.
    pub tool_calls: Vec<ScriptToolCall>,
    /// The failure that ends the turn, after `text` was sent.
    pub error: Option<ScriptFault>,
}

/// A tool call of a script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptToolCall {
    /// The tool's model-visible name.
    pub name: String,
    /// Its input.
    #[serde(default)]
    pub input: Map<String, Value>,
}

/// A failure a script plays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptFault {
    /// Which failure.
    #[serde(default)]
    pub kind: ScriptFaultKind,
    /// What the provider would say.
    pub message: String,
}

/// How a scripted model fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptFaultKind {
    /// The provider is down; worth a retry.
    #[default]
    Unavailable,
    /// Too many requests; worth a retry.
    RateLimited,
    /// The request is refused for good.
    Refused,
    /// The stream breaks off after the text.
    Cut,
}

/// A template of a script failed.
#[derive(Debug, thiserror::Error)]
#[error("rule {rule} of the offline model's script cannot be rendered")]
pub struct ScriptError {
    /// The rule, counted from 1.
    pub rule: usize,
    #[source]
    source: minijinja::Error,
}

impl Script {
    /// Parses and validates the text of a script. `path` only serves the messages.
    ///
    /// # Errors
    /// The first error of the YAML, or every error of meaning.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SpecErrors> {
        let (document, source) = Document::parse::<ScriptDocument>(path, text)?;
        let mut checker = Checker::new(&source);
        if document.rules.is_empty() {
            checker.error(&At::top("rules"), "a script has at least one rule");
        }
        for (index, rule) in document.rules.iter().enumerate() {
            rule.check(&mut checker, &At::top("rules").index(index));
        }
        checker.finish(Self {
            rules: document.rules,
        })
    }

    /// What the first fitting rule plays; `None` when none fits.
    ///
    /// # Errors
    /// [`ScriptError`] when a template of that rule fails.
    pub fn play(&self, turn: &ScriptTurn<'_>) -> Result<Option<ScriptReply>, ScriptError> {
        let Some((index, rule)) = self
            .rules
            .iter()
            .enumerate()
            .find(|(_, rule)| rule.matcher.fits(turn))
        else {
            return Ok(None);
        };
        rule.play(turn).map(Some).map_err(|source| ScriptError {
            rule: index + 1,
            source,
        })
    }
}

/// What a person may write in `script.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptDocument {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default, rename = "match")]
    matcher: Match,
    #[serde(default)]
    respond: String,
    #[serde(default)]
    tool_calls: Vec<ScriptToolCall>,
    #[serde(default)]
    delay_ms: u64,
    error: Option<ScriptFault>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Match {
    equals: Option<String>,
    contains: Option<String>,
    glob: Option<String>,
    step: Option<u32>,
    after_tool: Option<String>,
}

impl Match {
    fn fits(&self, turn: &ScriptTurn<'_>) -> bool {
        let lower = |text: &str| text.to_lowercase();
        self.equals
            .as_ref()
            .is_none_or(|text| turn.input.trim() == text.trim())
            && self
                .contains
                .as_ref()
                .is_none_or(|text| lower(turn.input).contains(&lower(text)))
            && self
                .glob
                .as_ref()
                .is_none_or(|glob| Glob::new(lower(glob)).is_match(&lower(turn.input)))
            && self.step.is_none_or(|step| turn.step == step)
            && self
                .after_tool
                .as_ref()
                .is_none_or(|name| turn.results.iter().any(|result| result.name == name))
    }
}

impl Rule {
    fn check(&self, checker: &mut Checker<'_>, at: &At) {
        if self.respond.is_empty() && self.tool_calls.is_empty() && self.error.is_none() {
            checker.error(at, "a rule needs `respond`, `tool_calls` or `error`");
        }
        if self.delay_ms > 0 {
            checker.millis(&at.field("delay_ms"), self.delay_ms);
        }
        if self.matcher.step == Some(0) {
            checker.error(&at.field("match").field("step"), "steps are counted from 1");
        }
        let env = Environment::new();
        if let Err(error) = env.template_from_str(&self.respond) {
            let detail = error.detail().unwrap_or("syntax error");
            checker.error(
                &at.field("respond"),
                format!("the template is not valid: {detail}"),
            );
        }
    }

    fn play(&self, turn: &ScriptTurn<'_>) -> Result<ScriptReply, minijinja::Error> {
        let mut env = Environment::new();
        env.set_fuel(Some(TEMPLATE_FUEL));
        let values = context! {
            input => turn.input,
            step => turn.step,
            results => minijinja::value::Serde(turn.results),
            result => minijinja::value::Serde(turn.results.last().map(|result| result.output)),
        };
        let render = |text: &str| env.render_str(text, &values);
        let mut tool_calls = Vec::new();
        for call in &self.tool_calls {
            let mut input = call.input.clone();
            input
                .values_mut()
                .try_for_each(|value| render_strings(value, &render))?;
            tool_calls.push(ScriptToolCall {
                name: call.name.clone(),
                input,
            });
        }
        Ok(ScriptReply {
            delay: Duration::from_millis(self.delay_ms),
            text: render(&self.respond)?,
            tool_calls,
            error: self.error.clone(),
        })
    }
}

fn render_strings(
    value: &mut Value,
    render: &dyn Fn(&str) -> Result<String, minijinja::Error>,
) -> Result<(), minijinja::Error> {
    match value {
        Value::String(text) => *text = render(text)?,
        Value::Array(entries) => entries
            .iter_mut()
            .try_for_each(|entry| render_strings(entry, render))?,
        Value::Object(map) => map
            .values_mut()
            .try_for_each(|entry| render_strings(entry, render))?,
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SCRIPT: &str = r#"
rules:
  - match: { contains: time, step: 1 }
    tool_calls: [{ name: rune__system-time, input: { timezone: "{{ input | upper }}" } }]
  - match: { after_tool: rune__system-time }
    respond: "It is {{ result.now }}."
  - match: { glob: "fail *" }
    error: { kind: rate_limited, message: slow down }
    delay_ms: 5
"#;

    fn script() -> Script {
        Script::parse(Path::new("script.yaml"), SCRIPT).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn plays_a_tool_call_and_then_its_result() {
        let first = script()
            .play(&ScriptTurn {
                input: "Time",
                step: 1,
                results: &[],
            })
            .unwrap()
            .unwrap();
        assert_eq!(first.tool_calls[0].name, "rune__system-time");
        assert_eq!(first.tool_calls[0].input["timezone"], "TIME");
        let output = json!({ "now": "noon" });
        let results = [ScriptToolResult {
            name: "rune__system-time",
            output: &output,
        }];
        let second = script()
            .play(&ScriptTurn {
                input: "Time",
                step: 2,
                results: &results,
            })
            .unwrap()
            .unwrap();
        assert_eq!(second.text, "It is noon.");
        assert!(second.tool_calls.is_empty());
    }

    #[test]
    fn plays_failures_and_leaves_the_rest_alone() {
        let reply = script()
            .play(&ScriptTurn {
                input: "fail now",
                step: 1,
                results: &[],
            })
            .unwrap()
            .unwrap();
        assert_eq!(reply.error.unwrap().kind, ScriptFaultKind::RateLimited);
        assert_eq!(reply.delay, Duration::from_millis(5));
        assert_eq!(
            script()
                .play(&ScriptTurn {
                    input: "hello",
                    step: 1,
                    results: &[]
                })
                .unwrap(),
            None
        );
    }

    #[test]
    fn rejects_a_rule_that_plays_nothing() {
        let errors = Script::parse(Path::new("script.yaml"), "rules:\n  - match: { step: 0 }\n")
            .unwrap_err();
        assert_eq!(errors.len(), 2);
    }
}
