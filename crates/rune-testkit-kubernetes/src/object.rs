//! Reading and writing objects as JSON.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// A text by its JSON pointer; empty where there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// A list by its JSON pointer; empty where there is none.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    let list = object.pointer(pointer).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// The map at a place, made where there is none. What is there and is no map is replaced.
pub(crate) fn map<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut at = as_map(object);
    for key in path {
        at = as_map(at.entry(*key).or_insert(Value::Null));
    }
    at
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made a map"),
    }
}

/// Sets a value by its path.
pub(crate) fn set(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    if let Some((last, before)) = path.split_last() {
        map(object, before).insert((*last).to_owned(), value.into());
    }
}

/// Sets a value where there is none.
pub(crate) fn set_default(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    if let Some((last, before)) = path.split_last() {
        let entry = map(object, before).entry(*last).or_insert(Value::Null);
        if entry.is_null() {
            *entry = value.into();
        }
    }
}

/// Removes a value by its path.
pub(crate) fn remove(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, before) = path.split_last()?;
    let mut at = object;
    for key in before {
        at = at.get_mut(key)?;
    }
    at.as_object_mut()?.remove(*last)
}

/// The time now, in the form of the API.
pub(crate) fn now() -> String {
    at(Timestamp::now())
}

/// A time in the form of the API.
pub(crate) fn at(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
