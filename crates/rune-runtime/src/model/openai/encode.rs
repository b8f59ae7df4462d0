//! The request.

use std::borrow::Cow;

use rune_store_runtime::{Block, ImageSource, Message, Role};
use serde_json::{Map, Value, json};

use crate::model::wire::{
    Protocol, arguments_object, call_ids, closed_schema, is_object_schema, is_strict, native_json,
    ordered_results,
};
use crate::model::{ModelRequest, ToolDefinition};

/// The JSON of a streaming call.
pub(in crate::model) fn encode(request: &ModelRequest, native_schema: bool) -> Value {
    let format = request.output_schema.as_deref().filter(|_| native_schema);
    let format = format.and_then(output_format);
    let mut body = Map::new();
    body.insert("model".into(), request.model.as_str().into());
    body.insert("stream".into(), true.into());
    body.insert("stream_options".into(), json!({"include_usage": true}));
    body.insert(
        "messages".into(),
        messages(request, format.is_some()).into(),
    );
    if !request.tools.is_empty() {
        let tools: Vec<Value> = request.tools.iter().map(tool).collect();
        body.insert("tools".into(), tools.into());
    }
    if let Some(limit) = request.max_output_tokens {
        body.insert("max_completion_tokens".into(), limit.into());
    }
    if let Some(temperature) = request.temperature {
        body.insert("temperature".into(), temperature.into());
    }
    if let Some(effort) = &request.reasoning_effort {
        body.insert("reasoning_effort".into(), effort.as_str().into());
    }
    if let Some(format) = format {
        let format = json!({"type": "json_schema", "json_schema": format});
        body.insert("response_format".into(), format);
    }
    Value::Object(body)
}

/// The name this vendor wants a schema to have.
const OUTPUT_NAME: &str = "output";

/// Name and schema of the answer as this vendor's two protocols take them: strict where the
/// schema allows it; `None` where it is not of an object.
pub(in crate::model) fn output_format(schema: &Value) -> Option<Value> {
    if let Some(closed) = closed_schema(schema).filter(is_strict) {
        return Some(json!({"name": OUTPUT_NAME, "strict": true, "schema": closed}));
    }
    is_object_schema(schema)
        .then(|| json!({"name": OUTPUT_NAME, "strict": false, "schema": schema}))
}

fn tool(tool: &ToolDefinition) -> Value {
    json!({
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.input_schema,
        },
    })
}

fn messages(request: &ModelRequest, has_format: bool) -> Vec<Value> {
    let mut out = Vec::new();
    let system = if has_format {
        Cow::Borrowed(request.system.as_str())
    } else {
        request.system_with_schema()
    };
    if !system.is_empty() {
        out.push(json!({"role": "system", "content": system}));
    }
    let mut calls: Vec<&str> = Vec::new();
    for message in &request.messages {
        match message.role {
            Role::User => out.push(json!({"role": "user", "content": user(message)})),
            Role::Assistant => {
                calls = call_ids(message);
                out.extend(assistant(message));
            }
            Role::Tool => {
                let results = ordered_results(&calls, &message.blocks);
                out.extend(results.iter().copied().filter_map(result));
                out.extend(shown(&results));
            }
        }
    }
    out
}

/// A text stays a text: many servers know nothing else.
fn user(message: &Message) -> Value {
    let plain = |block: &Block| !matches!(block, Block::Image { .. });
    if message.blocks.iter().all(plain) {
        return message.text().into();
    }
    let parts = message.blocks.iter().filter_map(|block| match block {
        Block::Text { text, .. } => Some(json!({"type": "text", "text": text})),
        Block::Image { source } => {
            let url = image_url(source)?;
            Some(json!({"type": "image_url", "image_url": {"url": url}}))
        }
        _ => None,
    });
    parts.collect()
}

/// Images of tools' results. A result is a text in this protocol: the user shows them, behind all results.
fn shown(results: &[&Block]) -> Option<Value> {
    let mut parts = Vec::new();
    for block in results {
        let Block::ToolResult { name, images, .. } = block else {
            continue;
        };
        let mut images = images.iter().filter_map(image_url).peekable();
        if images.peek().is_some() {
            let text = format!("[images of the result of {name}]");
            parts.push(json!({"type": "text", "text": text}));
        }
        parts.extend(images.map(|url| json!({"type": "image_url", "image_url": {"url": url}})));
    }
    (!parts.is_empty()).then(|| json!({"role": "user", "content": parts}))
}

/// An image as both protocols of this vendor take it; one that is not loaded cannot be
/// shown.
pub(in crate::model) fn image_url(source: &ImageSource) -> Option<String> {
    match source {
        ImageSource::Data { media_type, data } => Some(format!("data:{media_type};base64,{data}")),
        ImageSource::Url { url } => Some(url.clone()),
        ImageSource::Stored { .. } => None,
    }
}

/// The text, the calls, and what a compatible server wants back of its reasoning.
fn assistant(message: &Message) -> Option<Value> {
    let mut out = Map::new();
    let mut calls = Vec::new();
    for block in &message.blocks {
        match block {
            Block::Reasoning { native, .. } => {
                if let Some(Value::Object(fields)) = native_json(native.as_ref(), Protocol::OpenAi)
                {
                    out.extend(fields.clone());
                }
            }
            Block::ToolCall {
                id,
                name,
                input,
                native,
            } => {
                let mut call = native_json(native.as_ref(), Protocol::OpenAi)
                    .cloned()
                    .unwrap_or_else(|| {
                        let arguments = arguments_object(input).to_string();
                        json!({
                            "type": "function",
                            "function": {"name": name, "arguments": arguments},
                        })
                    });
                call["id"] = id.as_str().into();
                calls.push(call);
            }
            Block::Text { .. }
            | Block::Image { .. }
            | Block::ToolResult { .. }
            | Block::Opaque { .. } => {}
        }
    }
    let text = message.text();
    if text.is_empty() && calls.is_empty() {
        return None;
    }
    let content = if text.is_empty() {
        Value::Null
    } else {
        text.into()
    };
    out.insert("role".into(), "assistant".into());
    out.insert("content".into(), content);
    if !calls.is_empty() {
        out.insert("tool_calls".into(), calls.into());
    }
    Some(Value::Object(out))
}

/// The id of the call and what the model is shown. This vendor's protocols have no error
/// flag: the text says it.
pub(in crate::model) fn result_text(block: &Block) -> Option<(&str, Cow<'_, str>)> {
    let Block::ToolResult {
        call_id,
        content,
        is_error,
        ..
    } = block
    else {
        return None;
    };
    let content = if *is_error {
        Cow::Owned(format!("Error: {content}"))
    } else {
        Cow::Borrowed(content.as_str())
    };
    Some((call_id, content))
}

fn result(block: &Block) -> Option<Value> {
    let (call_id, content) = result_text(block)?;
    Some(json!({"role": "tool", "tool_call_id": call_id, "content": content}))
}
