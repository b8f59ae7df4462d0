//! Sets of fields, in the form of `managedFields`: a tree of `f:` names, `k:` items and `v:` values, whose leaves are
//! what is owned.

use serde_json::{Map, Value, json};

use super::keys::{ListKind, list_kind, same_key};

/// Fields that nobody owns.
const NOT_OWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "generation"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
    &["metadata", "managedFields"],
];

/// The fields of an object that can be owned.
pub(super) fn of(object: &Value) -> Value {
    let mut object = object.clone();
    for path in NOT_OWNED {
        crate::object::remove(&mut object, path);
    }
    // Where nothing is left of it, nothing of it is owned.
    if object
        .get("metadata")
        .and_then(Value::as_object)
        .is_some_and(Map::is_empty)
    {
        crate::object::remove(&mut object, &["metadata"]);
    }
    tree("", &object)
}

fn tree(field: &str, value: &Value) -> Value {
    let mut set = Map::new();
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                set.insert(format!("f:{key}"), tree(key, value));
            }
        }
        Value::Array(items) => match list_kind(field, items) {
            ListKind::Keyed(keys) => {
                for item in items {
                    set.insert(item_name(keys, item), with_self(tree("", item)));
                }
            }
            ListKind::Set => {
                for item in items {
                    set.insert(format!("v:{item}"), json!({}));
                }
            }
            ListKind::Atomic => {}
        },
        _ => {}
    }
    Value::Object(set)
}

fn item_name(keys: &[&str], item: &Value) -> String {
    let key: Map<String, Value> = keys
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), item.get(key)?.clone())))
        .collect();
    format!("k:{}", Value::Object(key))
}

/// An item of a list is owned itself, beside its fields.
fn with_self(mut set: Value) -> Value {
    crate::object::map(&mut set, &[]).insert(".".to_owned(), json!({}));
    set
}

/// The leaves as paths.
pub(super) fn leaves(set: &Value) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    collect(set, &mut Vec::new(), &mut all);
    all
}

fn collect(set: &Value, path: &mut Vec<String>, all: &mut Vec<Vec<String>>) {
    match set.as_object() {
        Some(map) if !map.is_empty() => {
            for (name, below) in map {
                path.push(name.clone());
                collect(below, path, all);
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => all.push(path.clone()),
    }
}

/// A set with these leaves.
pub(super) fn from_leaves<'a>(leaves: impl Iterator<Item = &'a Vec<String>>) -> Value {
    let mut set = json!({});
    for leaf in leaves {
        let path: Vec<&str> = leaf.iter().map(String::as_str).collect();
        crate::object::map(&mut set, &path);
    }
    set
}

/// The value of a leaf in an object.
pub(super) fn value<'a>(object: &'a Value, leaf: &[String]) -> Option<&'a Value> {
    let mut at = object;
    for name in leaf {
        at = step(at, name)?;
    }
    Some(at)
}

fn step<'a>(at: &'a Value, name: &str) -> Option<&'a Value> {
    if let Some(field) = name.strip_prefix("f:") {
        return at.get(field);
    }
    if name == "." {
        // That an item is there; what it holds is of its fields.
        return Some(&Value::Null);
    }
    let items = at.as_array()?;
    items.get(position(items, name)?)
}

fn position(items: &[Value], name: &str) -> Option<usize> {
    if let Some(value) = name.strip_prefix("v:") {
        let value: Value = serde_json::from_str(value).ok()?;
        return items.iter().position(|item| *item == value);
    }
    let key: Value = serde_json::from_str(name.strip_prefix("k:")?).ok()?;
    let keys: Vec<&str> = key.as_object()?.keys().map(String::as_str).collect();
    items.iter().position(|item| same_key(&keys, item, &key))
}

/// Removes what a leaf names from an object.
pub(super) fn remove(object: &mut Value, leaf: &[String]) {
    let Some((last, before)) = leaf.split_last() else {
        return;
    };
    if last == "." {
        // The item goes once nothing else of it is owned, which is when its own leaf goes.
        return remove(object, before);
    }
    let mut at = object;
    for name in before {
        let next = match (name.strip_prefix("f:"), at) {
            (Some(field), at) => at.get_mut(field),
            (None, Value::Array(items)) => {
                let found = position(items, name);
                found.and_then(|found| items.get_mut(found))
            }
            (None, _) => None,
        };
        let Some(next) = next else { return };
        at = next;
    }
    match (last.strip_prefix("f:"), at) {
        (Some(field), Value::Object(map)) => {
            map.remove(field);
        }
        (None, Value::Array(items)) => {
            if let Some(found) = position(items, last) {
                items.remove(found);
            }
        }
        _ => {}
    }
}

/// A leaf as errors name it: `.spec.containers[name="a"].image`.
pub(super) fn display(leaf: &[String]) -> String {
    let mut text = String::new();
    for name in leaf {
        if let Some(field) = name.strip_prefix("f:") {
            text.push('.');
            text.push_str(field);
        } else if let Some(key) = name.strip_prefix("k:") {
            let key: Value = serde_json::from_str(key).unwrap_or_default();
            let parts = key.as_object().into_iter().flatten();
            let parts: Vec<String> = parts.map(|(k, v)| format!("{k}={v}")).collect();
            text.push_str(&format!("[{}]", parts.join(",")));
        } else if let Some(value) = name.strip_prefix("v:") {
            text.push_str(&format!("[={value}]"));
        }
    }
    text
}
