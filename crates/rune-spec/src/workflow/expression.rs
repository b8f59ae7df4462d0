//! Templates and conditions.

use std::collections::BTreeSet;

use minijinja::Environment;

use super::Condition;
use crate::error::InvalidValue;

/// A checked text and the step ids it reads.
pub(super) struct Checked<T> {
    pub(super) value: T,
    pub(super) steps: BTreeSet<String>,
}

/// Checks a template such as `{{ steps.fetch.output }}`.
pub(super) fn template(text: &str, ids: &[&str]) -> Result<Checked<String>, InvalidValue> {
    let value = quote_ids_in_blocks(text, ids);
    let env = Environment::new();
    let compiled = env
        .template_from_str(&value)
        .map_err(|error| syntax("template", &error))?;
    let steps = read(compiled.undeclared_variables(true), &value, ids)?;
    Ok(Checked { value, steps })
}

/// Checks a condition of either form.
pub(super) fn condition(text: &str, ids: &[&str]) -> Result<Checked<Condition>, InvalidValue> {
    let text = text.trim();
    if text.starts_with("{{") || text.starts_with("{%") {
        return compare(text, ids);
    }
    let value = quote_ids(text, ids);
    let env = Environment::new();
    let compiled = env
        .compile_expression(&value)
        .map_err(|error| syntax("condition", &error))?;
    let steps = read(compiled.undeclared_variables(true), &value, ids)?;
    Ok(Checked {
        value: Condition::Expression(value),
        steps,
    })
}

fn compare(text: &str, ids: &[&str]) -> Result<Checked<Condition>, InvalidValue> {
    let end = text
        .rfind("}}")
        .or_else(|| text.rfind("%}"))
        .map_or(0, |at| at + 2);
    let (left, right) = text.split_at(end);
    let checked = template(left, ids)?;
    let right = right.trim();
    let (equal, right) = match (right.strip_prefix("=="), right.strip_prefix("!=")) {
        (Some(right), _) => (true, right),
        (_, Some(right)) => (false, right),
        // A lone `{{ … }}`; with several blocks a comparison between them would never be true.
        _ if right.is_empty() && left.matches("}}").count() == 1 => (true, "true"),
        _ => {
            return Err(
                InvalidValue::new("expected `==` or `!=` and a text after the template").with_help(
                    Some("for example `{{ steps.router.output }} == billing`".to_owned()),
                ),
            );
        }
    };
    let right = right.trim();
    let unquoted = ['"', '\'']
        .iter()
        .find_map(|quote| right.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(right);
    let value = Condition::Compare {
        template: checked.value,
        equal,
        text: unquoted.to_owned(),
    };
    Ok(Checked {
        value,
        steps: checked.steps,
    })
}

fn syntax(what: &str, error: &minijinja::Error) -> InvalidValue {
    InvalidValue::new(format!(
        "the {what} is not valid: {}",
        error.detail().unwrap_or("syntax error")
    ))
}

/// The step ids behind `steps.<id>`; any other free variable is an error.
fn read(
    variables: impl IntoIterator<Item = String>,
    text: &str,
    ids: &[&str],
) -> Result<BTreeSet<String>, InvalidValue> {
    let mut steps = BTreeSet::new();
    let variables: BTreeSet<String> = variables.into_iter().collect();
    for variable in variables {
        let mut parts = variable.split('.');
        match (parts.next(), parts.next()) {
            (Some("input"), _) => {}
            (Some("steps"), Some(id)) => {
                steps.insert(id.to_owned());
            }
            (Some("steps"), None) => {}
            (Some(name), _) => {
                return Err(
                    InvalidValue::new(format!("unknown variable `{name}`")).with_help(Some(
                        "templates see `input` and `steps.<id>.output`".to_owned(),
                    )),
                );
            }
            (None, _) => {}
        }
    }
    // Subscripts are not part of the names above.
    if text.contains("steps[") {
        let subscripted = |id: &&&str| {
            ['"', '\'']
                .iter()
                .any(|quote| text.contains(&format!("steps[{quote}{id}{quote}]")))
        };
        steps.extend(ids.iter().filter(subscripted).map(|id| (*id).to_owned()));
    }
    Ok(steps)
}

/// Writes `steps.my-id` as `steps["my-id"]` inside `{{ }}` and `{% %}`; elsewhere it is plain text.
fn quote_ids_in_blocks(text: &str, ids: &[&str]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let close = if rest[start..].starts_with("{{") {
            "}}"
        } else {
            "%}"
        };
        let Some(length) = rest[start..].find(close) else {
            break;
        };
        out.push_str(&rest[..start]);
        out.push_str(&quote_ids(&rest[start..start + length], ids));
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}

fn quote_ids(text: &str, ids: &[&str]) -> String {
    const PREFIX: &str = "steps.";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(PREFIX) {
        let (head, tail) = rest.split_at(start + PREFIX.len());
        let length = tail
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
            .unwrap_or(tail.len());
        // The longest known id: in `steps.a-1` the rest may be arithmetic.
        let id = ids
            .iter()
            .filter(|id| tail[..length].starts_with(**id))
            .max_by_key(|id| id.len());
        match id {
            Some(id) if !is_identifier(id) => {
                out.push_str(&head[..head.len() - 1]);
                out.push_str("[\"");
                out.push_str(id);
                out.push_str("\"]");
                rest = &tail[id.len()..];
            }
            _ => {
                out.push_str(head);
                rest = tail;
            }
        }
    }
    out.push_str(rest);
    out
}

fn is_identifier(id: &str) -> bool {
    !id.contains('-') && !id.starts_with(|c: char| c.is_ascii_digit())
}
