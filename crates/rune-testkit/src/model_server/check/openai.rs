use serde_json::Value;

use super::{Incoming, Rejection, duplicate, flag, is_base64, list, text, valid_tool_name};
use crate::model_server::conversation::{Conversation, Step};

pub(super) fn check(incoming: &Incoming<'_>) -> Result<Conversation, Rejection> {
    let body = incoming.body;
    key(incoming)?;
    if text(body, "model").is_empty() {
        return Err(Rejection::bad("you must provide a model parameter"));
    }
    let stream = flag(body, "stream");
    if !stream
        && body
            .get("stream_options")
            .is_some_and(|options| !options.is_null())
    {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(Rejection::bad(message).param("stream_options"));
    }
    tools(body)?;
    let format = body.get("response_format");
    let format = format.filter(|format| text(format, "type") == "json_schema");
    output_schema(
        format.and_then(|format| format.get("json_schema")),
        "response_format.json_schema",
    )?;
    let messages = list(body, "messages");
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty \
                       array instead.";
        return Err(Rejection::bad(message)
            .param("messages")
            .code("empty_array"));
    }
    for (index, message) in messages.iter().enumerate() {
        content(index, message)?;
    }
    pairs(messages)?;
    Ok(Conversation {
        model: text(body, "model").to_owned(),
        stream,
        include_usage: body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true)),
        include_reasoning: false,
        steps: steps(messages),
    })
}

pub(super) fn key(incoming: &Incoming<'_>) -> Result<(), Rejection> {
    match incoming.bearer() {
        None => {
            let message = "You didn't provide an API key. You need to provide your API key in an Authorization header \
                           using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";
            Err(Rejection::new(401, message))
        }
        Some(key) if !incoming.accepts(key) => {
            Err(Rejection::new(401, "Incorrect API key provided."))
        }
        Some(_) => Ok(()),
    }
}

fn tools(body: &Value) -> Result<(), Rejection> {
    let tools = list(body, "tools");
    let name = |tool: &Value| {
        tool.pointer("/function/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    for (index, tool) in tools
        .iter()
        .enumerate()
        .filter(|(_, tool)| text(tool, "type") == "function")
    {
        if !valid_tool_name(&name(tool)) {
            let param = format!("tools[{index}].function.name");
            let message = format!(
                "Invalid '{param}': string does not match pattern. Expected a string that matches the pattern \
                 '^[a-zA-Z0-9_-]{{1,64}}$'."
            );
            return Err(Rejection::bad(message).param(param).code("invalid_value"));
        }
    }
    let names: Vec<String> = tools
        .iter()
        .map(name)
        .filter(|name| !name.is_empty())
        .collect();
    match duplicate(names.iter().map(String::as_str)) {
        Some(name) => Err(Rejection::bad(format!("Duplicate tool name: {name}.")).param("tools")),
        None => Ok(()),
    }
}

/// Sound comes in two formats.
fn input_audio(part: &Value, place: &str) -> Result<(), Rejection> {
    let field = |name: &str| {
        part.pointer(&format!("/input_audio/{name}"))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    if !matches!(field("format"), "wav" | "mp3") || !is_base64(field("data")) {
        return Err(Rejection::bad("Invalid value for 'input_audio'.").param(place));
    }
    Ok(())
}

fn content(index: usize, message: &Value) -> Result<(), Rejection> {
    let param = |field: &str| format!("messages[{index}].{field}");
    let role = text(message, "role");
    if !matches!(role, "system" | "developer" | "user" | "assistant" | "tool") {
        let message = format!(
            "Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and \
             'developer'."
        );
        return Err(Rejection::bad(message)
            .param(param("role"))
            .code("invalid_value"));
    }
    let has_calls = !list(message, "tool_calls").is_empty();
    if message
        .get("tool_calls")
        .and_then(Value::as_array)
        .is_some_and(Vec::is_empty)
    {
        let message = format!("Invalid '{}': empty array.", param("tool_calls"));
        return Err(Rejection::bad(message)
            .param(param("tool_calls"))
            .code("empty_array"));
    }
    let given = match message.get("content") {
        Some(Value::String(_)) => true,
        Some(Value::Array(parts)) => !parts.is_empty(),
        _ => role == "assistant" && (has_calls || !text(message, "refusal").is_empty()),
    };
    if !given {
        let message = "Invalid value for 'content': expected a string, got null.";
        return Err(Rejection::bad(message).param(param("content")));
    }
    for part in list(message, "content") {
        if text(part, "type") == "image_url" {
            let url = part.pointer("/image_url/url").and_then(Value::as_str);
            image_url(url.unwrap_or_default(), &param("content"))?;
        }
        if text(part, "type") == "input_audio" {
            input_audio(part, &param("content"))?;
        }
    }
    for (at, call) in list(message, "tool_calls").iter().enumerate() {
        let function = |field: &str| {
            call.pointer(&format!("/function/{field}"))
                .and_then(Value::as_str)
        };
        let place = param(&format!("tool_calls[{at}]"));
        if text(call, "id").is_empty() || text(call, "type") != "function" {
            return Err(Rejection::bad(format!(
                "Missing required parameter: '{place}.id' or '{place}.type'."
            )));
        }
        if !function("name").is_some_and(valid_tool_name) {
            return Err(Rejection::bad(format!(
                "Invalid '{place}.function.name': string does not match pattern."
            )));
        }
        if function("arguments").is_none() {
            let message =
                format!("Invalid type for '{place}.function.arguments': expected a string.");
            return Err(Rejection::bad(message).param(place).code("invalid_type"));
        }
    }
    Ok(())
}

/// Every call is answered by a tool message straight after, and every tool message answers a call.
fn pairs(messages: &[Value]) -> Result<(), Rejection> {
    let ids = messages
        .iter()
        .flat_map(|message| list(message, "tool_calls"))
        .map(|call| text(call, "id"));
    if let Some(id) = duplicate(ids) {
        return Err(
            Rejection::bad(format!("Duplicate value for 'tool_call_id': {id}")).param("messages"),
        );
    }
    let mut open: Vec<&str> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if text(message, "role") == "tool" {
            let id = text(message, "tool_call_id");
            let Some(position) = open.iter().position(|call| *call == id) else {
                let message = "Invalid parameter: messages with role 'tool' must be a response to a preceeding message \
                               with 'tool_calls'.";
                return Err(Rejection::bad(message).param(format!("messages.[{index}].role")));
            };
            open.remove(position);
        } else {
            all_answered(&open)?;
            open = list(message, "tool_calls")
                .iter()
                .map(|call| text(call, "id"))
                .collect();
        }
    }
    all_answered(&open)
}

fn all_answered(open: &[&str]) -> Result<(), Rejection> {
    if open.is_empty() {
        return Ok(());
    }
    let message = format!(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. \
         The following tool_call_ids did not have response messages: {}",
        open.join(", ")
    );
    Err(Rejection::bad(message).param("messages"))
}

fn steps(messages: &[Value]) -> Vec<Step> {
    let step = |message: &Value| match text(message, "role") {
        "user" => Some(Step::User(user_text(message))),
        "assistant" => Some(Step::Assistant),
        "tool" => Some(Step::Results(1)),
        _ => None,
    };
    messages.iter().filter_map(step).collect()
}

pub(super) fn user_text(message: &Value) -> String {
    match message.get("content") {
        Some(Value::String(content)) => content.clone(),
        _ => {
            let parts = list(message, "content")
                .iter()
                .filter(|part| matches!(text(part, "type"), "text" | "input_text"));
            parts
                .map(|part| text(part, "text"))
                .collect::<Vec<_>>()
                .join("\n")
        }
    }
}

/// An address, or the data itself with its type.
pub(super) fn image_url(url: &str, param: &str) -> Result<(), Rejection> {
    let data = || {
        let (head, data) = url.strip_prefix("data:image/")?.split_once(',')?;
        (head.ends_with(";base64") && is_base64(data)).then_some(())
    };
    if url.starts_with("https://") || url.starts_with("http://") || data().is_some() {
        return Ok(());
    }
    let message = format!("Invalid '{param}': expected a valid URL or a base64-encoded data URL.");
    Err(Rejection::bad(message)
        .param(param)
        .code("invalid_image_url"))
}

/// A strict schema closes every object and requires all that it has.
pub(super) fn output_schema(format: Option<&Value>, param: &str) -> Result<(), Rejection> {
    let Some(format) = format.filter(|format| text(format, "type") != "text") else {
        return Ok(());
    };
    if text(format, "name").is_empty() {
        return Err(Rejection::bad(format!(
            "Missing required parameter: '{param}.name'."
        )));
    }
    let schema = format.get("schema").unwrap_or(&Value::Null);
    if text(schema, "type") != "object" {
        let message = format!(
            "Invalid schema for {param}: schema must be a JSON Schema of 'type: \"object\"'."
        );
        return Err(Rejection::bad(message).param(param));
    }
    if flag(format, "strict")
        && let Some(what) = loose(schema)
    {
        let message = format!("Invalid schema for {param}: {what}");
        return Err(Rejection::bad(message).param(param));
    }
    Ok(())
}

/// What keeps a schema from being strict.
fn loose(schema: &Value) -> Option<&'static str> {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        if schema.get("additionalProperties") != Some(&Value::Bool(false)) {
            return Some("'additionalProperties' is required to be supplied and to be false.");
        }
        let required = list(schema, "required");
        if !properties
            .keys()
            .all(|key| required.iter().any(|name| name == key))
        {
            return Some(
                "'required' is required to be supplied and to be an array including every key in properties.",
            );
        }
    }
    match schema {
        Value::Object(fields) => fields.values().find_map(loose),
        Value::Array(items) => items.iter().find_map(loose),
        _ => None,
    }
}
