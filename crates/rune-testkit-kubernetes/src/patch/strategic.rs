//! Strategic merge patch.

use serde_json::{Map, Value};

use super::keys::{ListKind, list_kind, same_key};

const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Merges a patch into an object.
pub(super) fn merge(live: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *live = patch.clone();
        return;
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("delete") => {
            *live = Value::Object(Map::new());
            return;
        }
        Some("replace") => *live = Value::Object(Map::new()),
        _ => {}
    }
    if !live.is_object() {
        *live = Value::Object(Map::new());
    }
    let Value::Object(live) = live else { return };
    if let Some(Value::Array(kept)) = patch.get("$retainKeys") {
        live.retain(|key, _| kept.iter().any(|k| k == key));
    }
    for (field, value) in patch {
        if let Some(field) = field.strip_prefix(DELETE) {
            remove_values(live, field, value);
        } else if !field.starts_with('$') {
            merge_field(live, field, value);
        }
    }
    for (field, order) in patch {
        if let (Some(field), Value::Array(order)) = (field.strip_prefix(ORDER), order) {
            sort(live, field, order);
        }
    }
}

fn merge_field(live: &mut Map<String, Value>, field: &str, value: &Value) {
    match value {
        Value::Null => {
            live.remove(field);
        }
        Value::Object(_) => merge(live.entry(field).or_insert(Value::Null), value),
        Value::Array(items) => {
            let entry = live
                .entry(field)
                .or_insert_with(|| Value::Array(Vec::new()));
            match entry {
                Value::Array(list) => merge_list(list, field, items),
                other => *other = value.clone(),
            }
        }
        _ => {
            live.insert(field.to_owned(), value.clone());
        }
    }
}

fn merge_list(live: &mut Vec<Value>, field: &str, patch: &[Value]) {
    let directive = |item: &Value| {
        item.get("$patch")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    if patch
        .iter()
        .any(|item| directive(item).as_deref() == Some("replace"))
    {
        *live = patch
            .iter()
            .filter(|item| directive(item).is_none())
            .cloned()
            .collect();
        return;
    }
    let kind = match list_kind(field, patch) {
        ListKind::Atomic if !patch.is_empty() => list_kind(field, live),
        kind => kind,
    };
    match kind {
        ListKind::Atomic => *live = patch.to_vec(),
        ListKind::Set => {
            for item in patch {
                if !live.contains(item) {
                    live.push(item.clone());
                }
            }
        }
        ListKind::Keyed(keys) => {
            for item in patch {
                let at = live.iter().position(|one| same_key(keys, one, item));
                match (at, directive(item).as_deref()) {
                    (Some(at), Some("delete")) => {
                        live.remove(at);
                    }
                    (None, Some("delete")) => {}
                    (Some(at), _) => {
                        if let Some(one) = live.get_mut(at) {
                            merge(one, item);
                        }
                    }
                    (None, _) => {
                        let mut new = Value::Null;
                        merge(&mut new, item);
                        live.push(new);
                    }
                }
            }
        }
    }
}

fn remove_values(live: &mut Map<String, Value>, field: &str, values: &Value) {
    if let (Some(Value::Array(list)), Value::Array(values)) = (live.get_mut(field), values) {
        list.retain(|item| !values.contains(item));
    }
}

/// Puts the items that are named in their order; others stay behind them.
fn sort(live: &mut Map<String, Value>, field: &str, order: &[Value]) {
    let Some(Value::Array(list)) = live.get_mut(field) else {
        return;
    };
    let kind = list_kind(field, list);
    list.sort_by_key(|item| {
        let at = order.iter().position(|wanted| match kind {
            ListKind::Keyed(keys) => {
                let first = keys.first().copied().unwrap_or_default();
                wanted.get(first) == item.get(first)
            }
            _ => wanted == item,
        });
        at.unwrap_or(usize::MAX)
    });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[track_caller]
    fn check(mut live: Value, patch: &Value, expected: &Value) {
        super::merge(&mut live, patch);
        assert_eq!(&live, expected);
    }

    #[test]
    fn lists_are_merged_by_their_keys() {
        let live = json!({"containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]},
            {"name": "b", "image": "b:1"},
        ]});
        let patch = json!({
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}],
            "containers": [
                {"name": "a", "env": [{"name": "Y", "value": "2"}]},
                {"name": "c", "image": "c:1"},
            ],
        });
        let expected = json!({"containers": [
            {"name": "b", "image": "b:1"},
            {"name": "a", "image": "a:1",
             "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "c", "image": "c:1"},
        ]});
        check(live, &patch, &expected);
    }

    #[test]
    fn directives_delete_and_replace() {
        let live = json!({"containers": [{"name": "a"}, {"name": "b"}], "args": [1, 2],
                          "finalizers": ["x", "y"], "map": {"old": 1, "kept": 2}});
        let patch = json!({
            "containers": [{"name": "a", "$patch": "delete"}],
            "args": [3],
            "$deleteFromPrimitiveList/finalizers": ["x"],
            "finalizers": ["z"],
            "map": {"$retainKeys": ["kept", "new"], "new": 3},
        });
        let expected = json!({"containers": [{"name": "b"}], "args": [3],
                              "finalizers": ["y", "z"], "map": {"kept": 2, "new": 3}});
        check(live, &patch, &expected);
        let patch = json!({"map": {"$patch": "replace", "only": 1}});
        check(
            json!({"map": {"a": 1}}),
            &patch,
            &json!({"map": {"only": 1}}),
        );
        check(json!({"a": 1}), &json!({"a": null}), &json!({}));
    }
}
