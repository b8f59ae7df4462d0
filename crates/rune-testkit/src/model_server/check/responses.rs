use serde_json::Value;

use super::{
    Incoming, Rejection, duplicate, flag, list, openai, text, unknown_field, valid_tool_name,
};
use crate::model_server::{
    conversation::{Conversation, Step},
    issuer::sign,
};

/// The least `max_output_tokens` the vendor takes.
const MIN_OUTPUT_TOKENS: u64 = 16;
const ENCRYPTED: &str = "reasoning.encrypted_content";
const KNOWN: [&str; 25] = [
    "model",
    "input",
    "instructions",
    "max_output_tokens",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_tool_calls",
    "reasoning",
    "text",
    "include",
    "store",
    "previous_response_id",
    "conversation",
    "truncation",
    "temperature",
    "top_p",
    "stream",
    "stream_options",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "service_tier",
    "safety_identifier",
    "context_management",
];

pub(super) fn check(incoming: &Incoming<'_>) -> Result<Conversation, Rejection> {
    let body = incoming.body;
    openai::key(incoming)?;
    if let Some(field) = unknown_field(body, &KNOWN) {
        return Err(Rejection::bad(format!("Unknown parameter: '{field}'."))
            .param(field)
            .code("unknown_parameter"));
    }
    if text(body, "model").is_empty() {
        return Err(Rejection::bad("Missing required parameter: 'model'.").param("model"));
    }
    let limit = body.get("max_output_tokens").and_then(Value::as_u64);
    if limit.is_some_and(|limit| limit < MIN_OUTPUT_TOKENS) {
        let message =
            "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16.";
        return Err(Rejection::bad(message)
            .param("max_output_tokens")
            .code("integer_below_min_value"));
    }
    tools(body)?;
    openai::output_schema(body.pointer("/text/format"), "text.format")?;
    let include = list(body, "include").iter().any(|field| field == ENCRYPTED);
    let words = body.get("input").and_then(Value::as_str);
    let items = list(body, "input");
    if words.is_none_or(str::is_empty) && items.is_empty() {
        return Err(Rejection::bad("Missing required parameter: 'input'.").param("input"));
    }
    for (index, item) in items.iter().enumerate() {
        check_item(index, item)?;
    }
    pairs(items)?;
    reasoning(incoming, items)?;
    let spoken = words.map(|words| Step::User(words.to_owned()));
    Ok(Conversation {
        model: text(body, "model").to_owned(),
        stream: flag(body, "stream"),
        include_usage: true,
        include_reasoning: include,
        steps: spoken.into_iter().chain(steps(items)).collect(),
    })
}

/// Tools are flat here: name and schema stand beside the type.
fn tools(body: &Value) -> Result<(), Rejection> {
    let tools = list(body, "tools");
    let functions = || {
        tools
            .iter()
            .enumerate()
            .filter(|(_, tool)| text(tool, "type") == "function")
    };
    for (index, tool) in functions() {
        let param = format!("tools[{index}].name");
        if text(tool, "name").is_empty() {
            return Err(
                Rejection::bad(format!("Missing required parameter: '{param}'."))
                    .param(param)
                    .code("missing_required_parameter"),
            );
        }
        if !valid_tool_name(text(tool, "name")) {
            let message = format!("Invalid '{param}': string does not match pattern.");
            return Err(Rejection::bad(message).param(param).code("invalid_value"));
        }
    }
    if tools.iter().any(|tool| text(tool, "type").is_empty()) {
        return Err(Rejection::bad(
            "Missing required parameter: 'tools[0].type'.",
        ));
    }
    match duplicate(functions().map(|(_, tool)| text(tool, "name"))) {
        Some(name) => Err(Rejection::bad(format!("Duplicate tool name: {name}.")).param("tools")),
        None => Ok(()),
    }
}

fn kind(item: &Value) -> &str {
    match text(item, "type") {
        "" => "message",
        kind => kind,
    }
}

fn check_item(index: usize, item: &Value) -> Result<(), Rejection> {
    let param = |field: &str| format!("input[{index}].{field}");
    let missing = |field: &str| {
        Rejection::bad(format!("Missing required parameter: '{}'.", param(field)))
            .param(param(field))
            .code("missing_required_parameter")
    };
    match kind(item) {
        "message" => message(index, item),
        "function_call" => {
            if let Some(field) = ["call_id", "name"]
                .into_iter()
                .find(|field| text(item, field).is_empty())
            {
                return Err(missing(field));
            }
            if !valid_tool_name(text(item, "name")) {
                return Err(Rejection::bad(format!("Invalid '{}'.", param("name"))));
            }
            match item.get("arguments") {
                Some(Value::String(_)) => Ok(()),
                _ => Err(missing("arguments")),
            }
        }
        "function_call_output" => match item.get("output") {
            _ if text(item, "call_id").is_empty() => Err(missing("call_id")),
            Some(Value::String(_) | Value::Array(_)) => Ok(()),
            _ => Err(missing("output")),
        },
        "reasoning" if !item.get("summary").is_some_and(Value::is_array) => Err(missing("summary")),
        "reasoning" => Ok(()),
        other => Err(Rejection::bad(format!("Invalid value: '{other}'."))
            .param(param("type"))
            .code("invalid_value")),
    }
}

fn message(index: usize, item: &Value) -> Result<(), Rejection> {
    let param = |field: &str| format!("input[{index}].{field}");
    let role = text(item, "role");
    let own: &[&str] = match role {
        "user" | "system" | "developer" => &["input_text", "input_image", "input_file"],
        "assistant" => &["output_text", "refusal"],
        _ => {
            let message = format!(
                "Invalid value: '{role}'. Supported values are: 'assistant', 'system', 'developer', and 'user'."
            );
            return Err(Rejection::bad(message)
                .param(param("role"))
                .code("invalid_value"));
        }
    };
    match item.get("content") {
        Some(Value::String(_)) => Ok(()),
        Some(Value::Array(parts)) if !parts.is_empty() => {
            for part in parts {
                let kind = text(part, "type");
                if !own.contains(&kind) {
                    let message =
                        format!("Invalid value: '{kind}'. Supported values are: {own:?}.");
                    return Err(Rejection::bad(message)
                        .param(param("content"))
                        .code("invalid_value"));
                }
                if kind == "input_image" {
                    openai::image_url(text(part, "image_url"), &param("content"))?;
                }
            }
            Ok(())
        }
        _ => Err(Rejection::bad(format!(
            "Missing required parameter: '{}'.",
            param("content")
        ))),
    }
}

/// Every call has exactly one output, after it, and every output its call.
fn pairs(items: &[Value]) -> Result<(), Rejection> {
    let ids = |wanted: &'static str| {
        items
            .iter()
            .enumerate()
            .filter(move |(_, item)| kind(item) == wanted)
            .map(|(index, item)| (index, text(item, "call_id")))
    };
    for wanted in ["function_call", "function_call_output"] {
        if let Some(id) = duplicate(ids(wanted).map(|(_, id)| id)) {
            return Err(
                Rejection::bad(format!("Duplicate value for 'call_id': {id}")).param("input"),
            );
        }
    }
    for (at, id) in ids("function_call_output") {
        if !ids("function_call").any(|(before, call)| before < at && call == id) {
            return Err(Rejection::bad(format!(
                "No tool call found for function call output with call_id {id}."
            ))
            .param("input"));
        }
    }
    for (_, id) in ids("function_call") {
        if !ids("function_call_output").any(|(_, answered)| answered == id) {
            return Err(
                Rejection::bad(format!("No tool output found for function call {id}."))
                    .param("input"),
            );
        }
    }
    Ok(())
}

/// Reasoning comes back unchanged, encrypted (nothing is stored here), with what it led to; in the current turn it
/// must come back.
fn reasoning(incoming: &Incoming<'_>, items: &[Value]) -> Result<(), Rejection> {
    for (index, item) in items
        .iter()
        .enumerate()
        .filter(|(_, item)| kind(item) == "reasoning")
    {
        let id = text(item, "id");
        let encrypted = text(item, "encrypted_content");
        if encrypted.is_empty() {
            return Err(Rejection::new(
                404,
                format!("Item with id '{id}' not found. Items are not persisted when `store` is set to false."),
            )
            .param("input"));
        }
        let summary: String = list(item, "summary")
            .iter()
            .map(|part| text(part, "text"))
            .collect();
        if encrypted != sign(&summary) {
            let message = format!("The encrypted content for item {id} could not be verified.");
            return Err(Rejection::bad(message).code("invalid_encrypted_content"));
        }
        let follows = items.get(index + 1);
        let ends = follows.is_none_or(|next| {
            kind(next) == "function_call_output"
                || matches!(text(next, "role"), "user" | "system" | "developer")
        });
        if ends {
            return Err(Rejection::bad(format!(
                "Item '{id}' of type 'reasoning' was provided without its required following item."
            ))
            .param("input"));
        }
    }
    let spoke = items
        .iter()
        .rposition(|item| text(item, "role") == "user")
        .unwrap_or(0);
    let current = &items[spoke.min(items.len())..];
    for call in current.iter().filter(|item| kind(item) == "function_call") {
        let Some(encrypted) = incoming.issuer.signature_of(text(call, "call_id")) else {
            continue;
        };
        if !current
            .iter()
            .any(|item| text(item, "encrypted_content") == encrypted)
        {
            return Err(Rejection::bad(format!(
                "Item '{}' of type 'function_call' was provided without its required 'reasoning' item.",
                text(call, "id")
            ))
            .param("input"));
        }
    }
    Ok(())
}

/// The items between two inputs of the user or of tools are one answer of the model.
fn steps(items: &[Value]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for item in items {
        let step = match (kind(item), text(item, "role")) {
            ("message", "user") => Step::User(openai::user_text(item)),
            ("message", "system" | "developer") => continue,
            ("function_call_output", _) => Step::Results(1),
            _ => Step::Assistant,
        };
        if step != Step::Assistant || steps.last() != Some(&Step::Assistant) {
            steps.push(step);
        }
    }
    steps
}
