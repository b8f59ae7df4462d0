//! Tool-call arguments as models write them.

use serde_json::{Map, Value, json};

/// The arguments of a call from the text a model wrote. Nothing is `{}`; text that is
/// not a JSON object is kept as it is, as a string, so that whoever runs the call can
/// tell the model.
pub(in crate::model) fn parse_arguments(raw: &str) -> Value {
    if raw.trim().is_empty() {
        return Value::Object(Map::new());
    }
    match serde_json::from_str(raw) {
        Ok(Value::Null) => Value::Object(Map::new()),
        Ok(Value::Object(fields)) => Value::Object(fields),
        // Some servers encode the object twice.
        Ok(Value::String(inner)) => match serde_json::from_str(&inner) {
            Ok(Value::Object(fields)) => Value::Object(fields),
            _ => Value::String(raw.to_owned()),
        },
        _ => Value::String(raw.to_owned()),
    }
}

/// The arguments of a call in a history: always an object, as every provider demands.
pub(in crate::model) fn arguments_object(input: &Value) -> Value {
    match input {
        Value::Object(_) => input.clone(),
        Value::Null => json!({}),
        other => json!({ "invalid_arguments": other }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: &str, expected: &Value) {
        assert_eq!(parse_arguments(raw), *expected, "{raw}");
    }

    #[test]
    fn keeps_what_is_not_an_object_as_text() {
        check("", &json!({}));
        check("null", &json!({}));
        check("{\"a\":1}", &json!({"a": 1}));
        check("\"{\\\"a\\\":1}\"", &json!({"a": 1}));
        check("{\"a\":", &json!("{\"a\":"));
        check("[1]", &json!("[1]"));
    }
}
