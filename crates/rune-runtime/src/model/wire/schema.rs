//! Output schemas as providers take them.

use serde_json::{Map, Value};

/// Keywords that every provider knows.
const KNOWN: [&str; 10] = [
    "type",
    "properties",
    "required",
    "items",
    "enum",
    "const",
    "anyOf",
    "title",
    "description",
    "additionalProperties",
];
/// Keywords that only narrow a value; the answer is checked against them afterwards.
const DROPPED: [&str; 17] = [
    "$schema",
    "$id",
    "$comment",
    "default",
    "examples",
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "uniqueItems",
];

/// Whether a schema is of an object.
pub(in crate::model) fn is_object_schema(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "object")
}

/// The schema in the part of JSON Schema that providers can hold a model to: every object
/// closed, no keyword that only narrows. What is valid against it has the right shape;
/// `None` where the schema cannot be said this way.
pub(in crate::model) fn closed_schema(schema: &Value) -> Option<Value> {
    is_object_schema(schema).then(|| closed(schema)).flatten()
}

fn closed(schema: &Value) -> Option<Value> {
    let mut out = Map::new();
    for (key, value) in schema.as_object()? {
        let kept = match key.as_str() {
            key if DROPPED.contains(&key) => continue,
            key if !KNOWN.contains(&key) => return None,
            // An open object is narrowed; one whose keys are free cannot be said.
            "additionalProperties" if matches!(value, Value::Bool(_)) => continue,
            "additionalProperties" => return None,
            "properties" => {
                let inner = value.as_object()?.iter();
                let inner = inner.map(|(name, schema)| Some((name.clone(), closed(schema)?)));
                Value::Object(inner.collect::<Option<Map<_, _>>>()?)
            }
            "items" => closed(value)?,
            "anyOf" => value
                .as_array()?
                .iter()
                .map(closed)
                .collect::<Option<_>>()?,
            _ => value.clone(),
        };
        out.insert(key.clone(), kept);
    }
    if is_object_schema(schema) {
        out.get("properties")?;
        out.insert("additionalProperties".to_owned(), false.into());
    }
    Some(Value::Object(out))
}

/// Whether every object of a closed schema requires all that it has.
pub(in crate::model) fn is_strict(schema: &Value) -> bool {
    let properties = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array);
    let all = |name: &String| required.is_some_and(|names| names.iter().any(|known| known == name));
    let inner = properties.into_iter().flatten();
    inner
        .clone()
        .all(|(name, schema)| all(name) && is_strict(schema))
        && schema.get("items").is_none_or(is_strict)
        && schema
            .get("anyOf")
            .and_then(Value::as_array)
            .is_none_or(|any| any.iter().all(is_strict))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn closes_objects_and_drops_what_only_narrows() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "n": {"type": "integer", "minimum": 1},
                "list": {"type": "array", "items": {"type": "object", "properties": {}}},
            },
            "required": ["n"],
        });
        let expected = json!({
            "type": "object",
            "properties": {
                "n": {"type": "integer"},
                "list": {"type": "array", "items":
                    {"type": "object", "properties": {}, "additionalProperties": false}},
            },
            "required": ["n"],
            "additionalProperties": false,
        });
        assert_eq!(closed_schema(&schema), Some(expected.clone()));
        assert!(!is_strict(&expected));
        let mut strict = expected;
        strict["required"] = json!(["n", "list"]);
        assert!(is_strict(&strict));
    }

    #[test]
    fn what_cannot_be_said_is_left_to_the_check() {
        for schema in [
            json!({"type": "string"}),
            json!({"type": "object"}),
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}),
            json!({"type": "object", "properties": {"a": true}}),
            json!({"type": "object", "properties": {"a": {"not": {}}}}),
        ] {
            assert_eq!(closed_schema(&schema), None, "{schema}");
        }
    }
}
