//! Parameters of calls that agents have no use for. What is harmless without an effect is left
//! out; what would change the answer is refused. `docs/openai.md` has the whole table.

use rune_http::ApiError;
use serde_json::{Map, Value, json};

/// A parameter that is refused unless it asks for nothing.
struct Refused {
    name: &'static str,
    /// Values with which it does, beside `null`.
    idle: fn(&Value) -> bool,
    /// What to do in its place.
    why: &'static str,
}

const OWN_TOOLS: &str = "an agent calls the tools of its own `toolset`; leave it out";
const ONE_ANSWER: &str = "an agent gives one answer; send the call again for another one";
const NO_PROBABILITIES: &str = "agents do not show the probabilities of tokens";
const OWN_SCHEMA: &str =
    "the form of the answer is the agent's: `output_schema` in its Runefile makes it JSON";
const TEXT_ONLY: &str = "agents answer with text";

/// Those of chat completions.
const CHAT: &[Refused] = &[
    refused("n", |value| *value == json!(1), ONE_ANSWER),
    refused("tools", is_empty, OWN_TOOLS),
    refused("tool_choice", is_auto, OWN_TOOLS),
    refused("functions", is_empty, OWN_TOOLS),
    refused("function_call", is_auto, OWN_TOOLS),
    refused("logprobs", |value| *value == json!(false), NO_PROBABILITIES),
    refused("top_logprobs", |value| *value == json!(0), NO_PROBABILITIES),
    refused("logit_bias", is_empty, NO_PROBABILITIES),
    refused(
        "stop",
        is_empty,
        "an agent ends its answer itself; cut it off where it is shown",
    ),
    refused("response_format", is_text, OWN_SCHEMA),
    refused("modalities", |value| *value == json!(["text"]), TEXT_ONLY),
    refused("audio", is_empty, TEXT_ONLY),
    refused("web_search_options", is_empty, OWN_TOOLS),
];

/// Those of responses.
const RESPONSES: &[Refused] = &[
    refused("tools", is_empty, OWN_TOOLS),
    refused("tool_choice", is_auto, OWN_TOOLS),
    refused(
        "max_tool_calls",
        |_| false,
        "`budget.tool_calls` in the agent's Runefile limits its calls",
    ),
    refused("top_logprobs", |value| *value == json!(0), NO_PROBABILITIES),
    refused(
        "prompt",
        |_| false,
        "there are no stored prompts; the agent has its instructions",
    ),
    refused(
        "text",
        |value| value.get("format").is_none_or(is_text),
        OWN_SCHEMA,
    ),
];

const fn refused(name: &'static str, idle: fn(&Value) -> bool, why: &'static str) -> Refused {
    Refused { name, idle, why }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn is_auto(value: &Value) -> bool {
    matches!(value.as_str(), Some("auto" | "none"))
}

fn is_text(value: &Value) -> bool {
    value.is_null() || value["type"] == "text"
}

/// Refuses what a chat completion cannot do.
pub(crate) fn check_chat(body: &Map<String, Value>) -> Result<(), ApiError> {
    check(body, CHAT)
}

/// Refuses what a response cannot do.
pub(crate) fn check_response(body: &Map<String, Value>) -> Result<(), ApiError> {
    check(body, RESPONSES)
}

fn check(body: &Map<String, Value>, table: &[Refused]) -> Result<(), ApiError> {
    for Refused { name, idle, why } in table {
        let Some(value) = body.get(*name) else {
            continue;
        };
        if !value.is_null() && !idle(value) {
            let error = ApiError::invalid(format!("`{name}` is not supported here: {why}"));
            return Err(error.of_param(name).labelled("unsupported_parameter"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(body: &Value) -> Result<(), String> {
        let body = body.as_object().unwrap();
        check_chat(body).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn what_asks_for_nothing_is_taken() {
        let body = json!({
            "n": 1, "tools": [], "tool_choice": "auto", "logprobs": false, "stop": null,
            "response_format": {"type": "text"}, "temperature": 0.2, "seed": 7, "unheard_of": true,
        });
        assert_eq!(chat(&body), Ok(()));
    }

    #[test]
    fn what_would_change_the_answer_is_refused() {
        for body in [
            json!({"n": 2}),
            json!({"tools": [{"type": "function"}]}),
            json!({"tool_choice": "required"}),
            json!({"logprobs": true}),
            json!({"stop": "\n"}),
            json!({"response_format": {"type": "json_object"}}),
            json!({"modalities": ["text", "audio"]}),
        ] {
            let name = body.as_object().unwrap().keys().next().unwrap().clone();
            let message = chat(&body).unwrap_err();
            assert!(message.contains(&format!("`{name}`")), "{message}");
        }
    }

    #[test]
    fn the_form_of_a_response_is_looked_at() {
        let check = |body: Value| check_response(body.as_object().unwrap()).is_ok();
        assert!(check(json!({"text": {"verbosity": "low"}})));
        assert!(check(json!({"text": {"format": {"type": "text"}}})));
        assert!(!check(json!({"text": {"format": {"type": "json_schema"}}})));
    }
}
