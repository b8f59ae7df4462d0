//! Structured reasoning (`reasoning_details` of OpenRouter, `thinking_blocks` of LiteLLM).

use serde_json::{Map, Value};

/// Fields whose fragments are joined.
const JOINED: [&str; 4] = ["text", "summary", "thinking", "signature"];

/// Adds the entries of `fragments` to `entries`: a fragment of the last entry is joined
/// with it, so that what is sent back is what would have come without streaming.
pub(super) fn add(entries: &mut Vec<Value>, fragments: &Value) {
    for fragment in fragments.as_array().into_iter().flatten() {
        match (entries.last_mut(), fragment) {
            (Some(Value::Object(last)), Value::Object(more)) if continues(last, more) => {
                join(last, more);
            }
            _ => entries.push(fragment.clone()),
        }
    }
}

fn continues(last: &Map<String, Value>, more: &Map<String, Value>) -> bool {
    let same = |key| last.get(key) == more.get(key);
    let joined = |entry: &Map<String, Value>| JOINED.iter().any(|key| entry.contains_key(*key));
    same("type") && same("index") && joined(last) && joined(more)
}

fn join(last: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (key, value) in more.iter().filter(|(_, value)| !value.is_null()) {
        match (last.get_mut(key), value) {
            (Some(Value::String(text)), Value::String(rest)) if JOINED.contains(&key.as_str()) => {
                text.push_str(rest);
            }
            _ => {
                last.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn joins_fragments_of_one_entry() {
        let mut entries = Vec::new();
        let deltas = [
            json!([{"type": "reasoning.text", "index": 0, "text": "a", "signature": null}]),
            json!([{"type": "reasoning.text", "index": 0, "text": "b"}]),
            json!([{"type": "reasoning.text", "index": 0, "text": "", "signature": "s"}]),
            json!([{"type": "reasoning.encrypted", "index": 1, "data": "d"}]),
            json!([{"type": "reasoning.encrypted", "index": 1, "data": "e"}]),
        ];
        deltas.iter().for_each(|delta| add(&mut entries, delta));
        let expected = json!([
            {"type": "reasoning.text", "index": 0, "text": "ab", "signature": "s"},
            {"type": "reasoning.encrypted", "index": 1, "data": "d"},
            {"type": "reasoning.encrypted", "index": 1, "data": "e"},
        ]);
        assert_eq!(Value::from(entries), expected);
    }
}
