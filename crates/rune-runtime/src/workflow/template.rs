//! Templates and conditions of a workflow.
//!
//! They see `input` and `steps.<id>.output`. Text that is a JSON object or list prints as
//! the text it is and can be addressed as what it holds. What a skipped step would have
//! said is undefined: it prints as nothing, and so does everything below it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Serde, ValueKind};
use minijinja::{Environment, UndefinedBehavior, Value, context};
use rune_spec::Condition;
use rune_store_runtime::StepOutcome;
use rune_store_runtime::limits::{MAX_ENTRY_BYTES, MAX_JSON_DEPTH, json_depth};

/// Steps that one template may take, so that a loop ends.
const FUEL: u64 = 100_000;
/// How deep templates may recurse.
const RECURSION: usize = 64;

/// What the templates of one run see.
pub(super) struct Templates {
    env: Environment<'static>,
    input: Value,
    steps: BTreeMap<String, Value>,
}

impl Templates {
    /// Before any step has ended.
    pub(super) fn new(input: &serde_json::Value) -> Self {
        Self {
            env: environment(),
            input: shown(input),
            steps: BTreeMap::new(),
        }
    }

    /// Adds what a step said.
    pub(super) fn add(&mut self, outcome: &StepOutcome) {
        let output = outcome.output.as_ref().map(shown);
        let step = match output {
            Some(output) => context! { output },
            None => context! {},
        };
        self.steps.insert(outcome.step.clone(), step);
    }

    /// Renders a template.
    pub(super) fn render(&self, text: &str) -> Result<String, String> {
        render(&self.env, text, self.context())
    }

    /// Whether a step runs.
    pub(super) fn holds(&self, condition: &Condition) -> Result<bool, String> {
        match condition {
            Condition::Expression(text) => {
                let expression = self.env.compile_expression(text).map_err(|e| detail(&e))?;
                let value = expression.eval(self.context()).map_err(|e| detail(&e))?;
                Ok(value.is_true())
            }
            Condition::Compare {
                template,
                equal,
                text,
            } => Ok((self.render(template)?.trim() == text) == *equal),
        }
    }

    fn context(&self) -> Value {
        context! { input => self.input.clone(), steps => self.steps.clone() }
    }
}

/// Renders a text that tells of an event.
pub(crate) fn render_event(text: &str, event: &serde_json::Value) -> Result<String, String> {
    let fields = event.as_object().into_iter().flatten();
    let fields: BTreeMap<&str, Value> = fields
        .map(|(name, value)| (name.as_str(), shown(value)))
        .collect();
    render(&environment(), text, context! { event => fields })
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION);
    env.set_undefined_behavior(UndefinedBehavior::Chainable);
    env
}

fn render(env: &Environment<'_>, text: &str, context: Value) -> Result<String, String> {
    let template = env.template_from_str(text).map_err(|e| detail(&e))?;
    let mut out = Bounded(Vec::new());
    template
        .render_captured_to(context, &mut out)
        .map_err(|error| detail(&error))?;
    String::from_utf8(out.0).map_err(|error| error.to_string())
}

/// A value as templates see it.
fn shown(value: &serde_json::Value) -> Value {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(_) | serde_json::Value::Object(_) => value.to_string(),
        plain => return Value::from(Serde(plain)),
    };
    let is_nested =
        text.trim_start().starts_with(['{', '[']) && json_depth(&text) <= MAX_JSON_DEPTH;
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(parsed) if is_nested => Value::from_object(JsonText {
            text,
            value: Value::from(Serde(&parsed)),
        }),
        _ => Value::from(text),
    }
}

/// Text that is JSON.
#[derive(Debug)]
struct JsonText {
    text: String,
    value: Value,
}

impl Object for JsonText {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match self.value.kind() {
            ValueKind::Seq => ObjectRepr::Seq,
            _ => ObjectRepr::Map,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let found = self.value.get_item(key).ok()?;
        (!found.is_undefined()).then_some(found)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.value.kind() {
            ValueKind::Seq => Enumerator::Seq(self.value.len().unwrap_or_default()),
            _ => match self.value.try_iter() {
                Ok(keys) => Enumerator::Values(keys.collect()),
                Err(_) => Enumerator::NonEnumerable,
            },
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// As much as a journal entry can hold.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.0.len() + part.len() > MAX_ENTRY_BYTES {
            let message = format!("the text is longer than {MAX_ENTRY_BYTES} bytes");
            return Err(io::Error::other(message));
        }
        self.0.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The error with what caused it.
fn detail(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use rune_store_runtime::StepStatus;
    use serde_json::json;

    use super::*;

    fn templates() -> Templates {
        let mut templates = Templates::new(&json!("hello"));
        let outcome = |step: &str, output| StepOutcome {
            step: step.to_owned(),
            status: StepStatus::Completed,
            output,
            failure: None,
            duration_ms: 0,
        };
        templates.add(&outcome("router", Some(json!("billing"))));
        templates.add(&outcome("data", Some(json!("{\"n\": 2,  \"l\": [1, 2]}"))));
        templates.add(&outcome("skipped", None));
        templates
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(templates().render(text).as_deref(), Ok(expected), "{text}");
    }

    #[test]
    fn json_text_prints_as_it_is_and_can_be_addressed() {
        check(
            "{{ input }}: {{ steps.data.output }}",
            "hello: {\"n\": 2,  \"l\": [1, 2]}",
        );
        check("{{ steps.data.output.n + 1 }}", "3");
        check(
            "{% for x in steps.data.output.l %}{{ x }};{% endfor %}",
            "1;2;",
        );
        check("{{ steps.data.output | length }}", "2");
    }

    #[test]
    fn what_was_skipped_is_empty() {
        check(
            "[{{ steps.skipped.output }}{{ steps.skipped.output.field }}]",
            "[]",
        );
        check("{{ steps.skipped.output or 'none' }}", "none");
    }

    #[test]
    fn conditions_of_both_forms() {
        let compare = |equal| Condition::Compare {
            template: " {{ steps.router.output }} ".to_owned(),
            equal,
            text: "billing".to_owned(),
        };
        let holds = |condition| templates().holds(&condition);
        assert_eq!(holds(compare(true)), Ok(true));
        assert_eq!(holds(compare(false)), Ok(false));
        let expression = |text: &str| Condition::Expression(text.to_owned());
        assert_eq!(
            holds(expression("steps.router.output == 'billing'")),
            Ok(true)
        );
        assert_eq!(holds(expression("steps.data.output.n > 2")), Ok(false));
        assert!(holds(expression("steps.data.output.l < 'x' + 1")).is_err());
    }

    #[test]
    fn a_loop_and_a_long_text_end() {
        let forever =
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert!(templates().render(forever).is_err());
        let long = Templates::new(&json!("x".repeat(MAX_ENTRY_BYTES / 2)));
        let error = long
            .render("{{ input }}{{ input }}{{ input }}")
            .unwrap_err();
        assert!(error.contains("longer than"), "{error}");
    }
}
