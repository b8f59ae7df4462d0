//! The input of a request, as typed.

use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// The input for an agent: the text as it is, or the JSON it holds.
pub(crate) fn input(text: &str, is_json: bool) -> Outcome<Value> {
    if !is_json {
        return Ok(Value::from(text));
    }
    serde_json::from_str(text).map_err(|error| {
        Failure::usage(format!("the prompt is not JSON: {error}"))
            .help("leave out --json to send it as text")
    })
}

/// An answer as text: strings as they are, anything else as JSON.
pub(crate) fn answer(output: &Value) -> String {
    match output {
        Value::String(text) => text.clone(),
        other => format!("{other:#}"),
    }
}
