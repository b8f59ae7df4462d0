//! The request.

use std::borrow::Cow;

use rune_store_runtime::{Block, Message, Role};
use serde_json::{Map, Value, json};

use crate::model::openai::{image_url, output_format, result_text};
use crate::model::wire::{Protocol, arguments_object, call_ids, native_json, ordered_results};
use crate::model::{ModelRequest, ToolDefinition};

/// The least limit the vendor takes.
const MIN_OUTPUT_TOKENS: u32 = 16;
/// Beginnings of the ids of models that do not reason and refuse to be asked for it.
const WITHOUT_REASONING: [&str; 3] = ["gpt-3", "gpt-4", "chatgpt-"];

/// The JSON of a streaming call.
pub(in crate::model) fn encode(request: &ModelRequest, native_schema: bool) -> Value {
    let format = request.output_schema.as_deref().filter(|_| native_schema);
    let format = format.and_then(output_format);
    let mut body = Map::new();
    body.insert("model".into(), request.model.as_str().into());
    body.insert("stream".into(), true.into());
    body.insert("store".into(), false.into());
    if reasons(&request.model) {
        body.insert("include".into(), json!(["reasoning.encrypted_content"]));
    }
    let system = if format.is_some() {
        Cow::Borrowed(request.system.as_str())
    } else {
        request.system_with_schema()
    };
    if !system.is_empty() {
        body.insert("instructions".into(), system.into());
    }
    if !request.tools.is_empty() {
        let tools: Vec<Value> = request.tools.iter().map(tool).collect();
        body.insert("tools".into(), tools.into());
    }
    body.insert("input".into(), input(&request.messages).into());
    if let Some(limit) = request.max_output_tokens {
        body.insert(
            "max_output_tokens".into(),
            limit.max(MIN_OUTPUT_TOKENS).into(),
        );
    }
    if let Some(temperature) = request.temperature {
        body.insert("temperature".into(), temperature.into());
    }
    if let Some(effort) = &request.reasoning_effort {
        body.insert("reasoning".into(), json!({ "effort": effort }));
    }
    if let Some(mut format) = format {
        format["type"] = "json_schema".into();
        body.insert("text".into(), json!({ "format": format }));
    }
    Value::Object(body)
}

/// Whether a model takes the field that asks for its reasoning.
fn reasons(model: &str) -> bool {
    !WITHOUT_REASONING
        .iter()
        .any(|start| model.starts_with(start))
        && !model.contains("-chat")
}

/// Without `strict: false` the vendor would change the schema.
fn tool(tool: &ToolDefinition) -> Value {
    json!({
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": false,
    })
}

fn input(messages: &[Message]) -> Vec<Value> {
    let mut items = Vec::new();
    let mut calls: Vec<&str> = Vec::new();
    for message in messages {
        match message.role {
            Role::User => items.push(json!({"role": "user", "content": user(message)})),
            Role::Assistant => {
                calls = call_ids(message);
                items.extend(assistant(message));
            }
            Role::Tool => {
                let results = ordered_results(&calls, &message.blocks).into_iter();
                items.extend(results.filter_map(result));
            }
        }
    }
    items
}

/// A text, or parts where there are images.
fn result(block: &Block) -> Option<Value> {
    let (call_id, output) = result_text(block)?;
    let mut item = json!({"type": "function_call_output", "call_id": call_id, "output": output});
    if let Block::ToolResult { images, .. } = block {
        let mut images = images.iter().filter_map(image_url).peekable();
        if images.peek().is_some() {
            let image = |url| json!({"type": "input_image", "image_url": url});
            let text = json!({"type": "input_text", "text": output});
            let parts = std::iter::once(text).chain(images.map(image));
            item["output"] = parts.collect();
        }
    }
    Some(item)
}

fn user(message: &Message) -> Value {
    let parts = message.blocks.iter().filter_map(|block| match block {
        Block::Text { text, .. } => Some(json!({"type": "input_text", "text": text})),
        Block::Image { source } => {
            let url = image_url(source)?;
            Some(json!({"type": "input_image", "image_url": url}))
        }
        _ => None,
    });
    parts.collect()
}

/// The items as they came. Reasoning that led to nothing, as in a reply that was cut off,
/// would be refused.
fn assistant(message: &Message) -> Vec<Value> {
    let mut items: Vec<Value> = message.blocks.iter().filter_map(item).collect();
    while items.last().is_some_and(|last| last["type"] == "reasoning") {
        items.pop();
    }
    items
}

fn item(block: &Block) -> Option<Value> {
    let own = |native| native_json(native, Protocol::Responses).cloned();
    match block {
        Block::Text { text, native } => own(native.as_ref())
            .or_else(|| (!text.is_empty()).then(|| json!({"role": "assistant", "content": text}))),
        Block::Reasoning { native, .. } => own(native.as_ref()).filter(can_come_back),
        Block::ToolCall {
            id,
            name,
            input,
            native,
        } => {
            let rebuilt = || {
                let arguments = arguments_object(input).to_string();
                json!({"type": "function_call", "name": name, "arguments": arguments})
            };
            let mut call = own(native.as_ref()).unwrap_or_else(rebuilt);
            call["call_id"] = id.as_str().into();
            Some(call)
        }
        Block::Opaque { native } => own(Some(native)),
        Block::Image { .. } | Block::ToolResult { .. } => None,
    }
}

/// Nothing is stored at the provider, so an item that is no more than an id means nothing.
fn can_come_back(item: &Value) -> bool {
    let filled = |name| match item.get(name) {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(parts)) => !parts.is_empty(),
        _ => false,
    };
    filled("encrypted_content") || filled("content")
}
