//! Tool calls out of fragments, in every form that servers send them.

use rune_store_runtime::Block;
use serde_json::{Map, Value, json};

use crate::model::wire::{CallIds, Protocol, parse_arguments};

/// The calls of a reply as far as they have come.
#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Call>);

#[derive(Debug, Default)]
struct Call {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    /// What the fragments hold besides, such as `extra_content`; it is sent back.
    extra: Map<String, Value>,
}

impl Calls {
    /// Takes `delta.tool_calls`: a list, or one call by itself.
    pub(super) fn add(&mut self, fragments: &Value) {
        match fragments {
            Value::Array(list) => list.iter().for_each(|fragment| self.add_one(fragment)),
            Value::Object(_) => self.add_one(fragments),
            _ => {}
        }
    }

    fn add_one(&mut self, fragment: &Value) {
        let Value::Object(fields) = fragment else {
            return;
        };
        let index = fields.get("index").and_then(Value::as_u64);
        let id = fields.get("id").and_then(Value::as_str).unwrap_or("");
        let function = fields.get("function");
        let part = |name| function.and_then(|function| function.get(name));
        let name = part("name").and_then(Value::as_str).unwrap_or("");
        let call = self.call_for(index, id, name);
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        // Some servers repeat the name in every fragment.
        if call.name.is_empty() {
            name.clone_into(&mut call.name);
        }
        match part("arguments") {
            Some(Value::String(text)) => call.arguments.push_str(text),
            Some(object @ Value::Object(_)) if call.arguments.is_empty() => {
                call.arguments = object.to_string();
            }
            _ => {}
        }
        let known = ["index", "id", "type", "function"];
        for (key, value) in fields {
            if !known.contains(&key.as_str()) && !value.is_null() {
                call.extra.insert(key.clone(), value.clone());
            }
        }
    }

    /// The call that a fragment belongs to: the one with its index, else the one with its
    /// id, else the last one; a new one where id or name show that it is another.
    fn call_for(&mut self, index: Option<u64>, id: &str, name: &str) -> &mut Call {
        let found = match index {
            Some(_) => self.0.iter().rposition(|call| call.index == index),
            None if !id.is_empty() => self.0.iter().rposition(|call| call.id == id),
            None => self.0.len().checked_sub(1),
        };
        let found = found.filter(|&at| !self.0[at].is_followed_by(index, id, name));
        let at = found.unwrap_or_else(|| {
            self.0.push(Call {
                index,
                ..Call::default()
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// The blocks.
    pub(super) fn finish(self, ids: &mut CallIds) -> Vec<Block> {
        let named = self.0.into_iter().filter(|call| !call.name.is_empty());
        named.map(|call| call.into_block(ids)).collect()
    }
}

impl Call {
    /// Whether a fragment with the same index, or none, begins another call.
    fn is_followed_by(&self, index: Option<u64>, id: &str, name: &str) -> bool {
        if !id.is_empty() && !self.id.is_empty() {
            // Some servers give every call the index 0.
            return id != self.id && !name.is_empty();
        }
        let complete = || serde_json::from_str::<Value>(&self.arguments).is_ok();
        index.is_none() && !name.is_empty() && (name != self.name || complete())
    }

    fn into_block(mut self, ids: &mut CallIds) -> Block {
        let id = ids.assign(&self.id);
        let input = parse_arguments(&self.arguments);
        let rebuilt = input.to_string();
        let same = rebuilt == self.arguments;
        let native = (input.is_object() && (!same || !self.extra.is_empty())).then(|| {
            let arguments = match self.arguments.trim() {
                "" | "null" => "{}",
                text => text,
            };
            self.extra.insert("type".into(), "function".into());
            let function = json!({"name": self.name, "arguments": arguments});
            self.extra.insert("function".into(), function);
            Protocol::OpenAi.native(Value::Object(self.extra))
        });
        Block::ToolCall {
            id,
            name: self.name,
            input,
            native,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The calls as `id name input`.
    #[track_caller]
    fn check(deltas: &[Value], expected: &[&str]) {
        let mut calls = Calls::default();
        deltas.iter().for_each(|delta| calls.add(delta));
        let blocks = calls.finish(&mut CallIds::default());
        let lines: Vec<_> = blocks
            .iter()
            .map(|block| match block {
                Block::ToolCall {
                    id, name, input, ..
                } => format!("{id} {name} {input}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn joins_interleaved_parallel_calls() {
        check(
            &[
                json!([{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]),
                json!([{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{\"y\""}}]),
                json!([{"index": 0, "function": {"arguments": "{}"}}]),
                json!([{"index": 1, "function": {"arguments": ":2}"}}]),
            ],
            &["a f {}", "b g {\"y\":2}"],
        );
    }

    #[test]
    fn tolerates_repeated_ids_and_names() {
        let fragment =
            |text| json!([{"index": 0, "id": "a", "function": {"name": "f", "arguments": text}}]);
        check(&[fragment("{\"x\""), fragment(":1}")], &["a f {\"x\":1}"]);
    }

    #[test]
    fn tolerates_missing_indexes_and_ids() {
        let whole = json!([
            {"function": {"name": "f", "arguments": {"x": 1}}},
            {"function": {"name": "f", "arguments": null}},
            {"id": "", "function": {"name": "g", "arguments": ""}},
        ]);
        check(
            &[whole],
            &["call_0 f {\"x\":1}", "call_1 f {}", "call_2 g {}"],
        );
        check(
            &[
                json!([{"id": "a", "function": {"name": "f", "arguments": "{\"x\""}}]),
                json!([{"function": {"arguments": ":1}"}}]),
                json!([{"id": "b", "function": {"name": "f", "arguments": "{}"}}]),
            ],
            &["a f {\"x\":1}", "b f {}"],
        );
    }

    #[test]
    fn tells_calls_with_the_same_index_apart() {
        check(
            &[
                json!([{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]),
                json!([{"index": 0, "id": "b", "function": {"name": "f", "arguments": "{}"}}]),
            ],
            &["a f {}", "b f {}"],
        );
    }

    #[test]
    fn keeps_broken_arguments_as_text() {
        check(
            &[json!([{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{\"x\":"}}])],
            &["a f \"{\\\"x\\\":\""],
        );
    }
}
