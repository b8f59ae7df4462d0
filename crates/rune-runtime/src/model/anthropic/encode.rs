//! The request.

use std::borrow::Cow;

use rune_store_runtime::{Block, ImageSource, Message, Role};
use serde_json::{Map, Value, json};

use crate::model::wire::{
    Protocol, arguments_object, call_ids, closed_schema, native_json, ordered_results,
};
use crate::model::{ModelRequest, ToolDefinition};

/// Output tokens where the Runefile sets no limit: the field is required, and thinking
/// counts.
const DEFAULT_MAX_TOKENS: u32 = 32_000;

/// The JSON of a streaming call.
pub(in crate::model) fn encode(request: &ModelRequest, native_schema: bool) -> Value {
    let schema = request.output_schema.as_deref().filter(|_| native_schema);
    let schema = schema.and_then(closed_schema);
    let mut body = Map::new();
    body.insert("model".into(), request.model.as_str().into());
    let max_tokens = request.max_output_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    body.insert("max_tokens".into(), max_tokens.into());
    body.insert("stream".into(), true.into());
    let system = if schema.is_some() {
        Cow::Borrowed(request.system.as_str())
    } else {
        request.system_with_schema()
    };
    if !system.is_empty() {
        let mut system = json!({"type": "text", "text": system});
        mark_cached(&mut system);
        body.insert("system".into(), json!([system]));
    }
    if !request.tools.is_empty() {
        let mut tools: Vec<Value> = request.tools.iter().map(tool).collect();
        tools.last_mut().into_iter().for_each(mark_cached);
        body.insert("tools".into(), tools.into());
    }
    body.insert("messages".into(), messages(&request.messages).into());
    if let Some(temperature) = request.temperature {
        body.insert("temperature".into(), temperature.into());
    }
    let mut output = Map::new();
    if let Some(effort) = &request.reasoning_effort {
        output.insert("effort".into(), effort.as_str().into());
    }
    if let Some(schema) = schema {
        let format = json!({"type": "json_schema", "schema": schema});
        output.insert("format".into(), format);
    }
    if !output.is_empty() {
        body.insert("output_config".into(), output.into());
    }
    Value::Object(body)
}

fn tool(tool: &ToolDefinition) -> Value {
    json!({
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.input_schema,
    })
}

/// Ends a cached prefix here. There may be four: after the tools, after the system prompt,
/// after what the user said last and after the last results of tools.
fn mark_cached(block: &mut Value) {
    block["cache_control"] = json!({"type": "ephemeral"});
}

fn messages(messages: &[Message]) -> Vec<Value> {
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    let mut calls: Vec<&str> = Vec::new();
    for message in messages {
        let (role, blocks) = match message.role {
            Role::User => ("user", message.blocks.iter().filter_map(block).collect()),
            Role::Assistant => {
                calls = call_ids(message);
                let blocks: Vec<Value> = message.blocks.iter().filter_map(block).collect();
                ("assistant", blocks)
            }
            Role::Tool => {
                let results = ordered_results(&calls, &message.blocks);
                ("user", results.into_iter().filter_map(block).collect())
            }
        };
        match turns.last_mut() {
            _ if blocks.is_empty() => {}
            Some((last, turn)) if *last == role => turn.extend(blocks),
            _ => turns.push((role, blocks)),
        }
    }
    // The next call of a tool loop repeats everything up to the last results, the next
    // request of the session everything up to what the user said.
    if let Some((_, blocks)) = turns.last_mut() {
        blocks.last_mut().into_iter().for_each(mark_cached);
    }
    let spoken = turns.iter_mut().rev().find(|(role, blocks)| {
        let result = |block: &Value| block["type"] == "tool_result";
        *role == "user" && !blocks.iter().any(result)
    });
    if let Some((_, blocks)) = spoken {
        blocks.last_mut().into_iter().for_each(mark_cached);
    }
    turns
        .into_iter()
        .map(|(role, content)| json!({"role": role, "content": content}))
        .collect()
}

fn block(block: &Block) -> Option<Value> {
    let own = |native| native_json(native, Protocol::Anthropic).cloned();
    match block {
        Block::Text { text, native } => own(native.as_ref())
            .or_else(|| (!text.is_empty()).then(|| json!({"type": "text", "text": text}))),
        Block::Reasoning { native, .. } => own(native.as_ref()),
        Block::ToolCall {
            id,
            name,
            input,
            native,
        } => {
            let rebuilt =
                || json!({"type": "tool_use", "name": name, "input": arguments_object(input)});
            let mut call = own(native.as_ref()).unwrap_or_else(rebuilt);
            call["id"] = legal_id(id).into();
            Some(call)
        }
        Block::ToolResult {
            call_id,
            content,
            images,
            is_error,
            ..
        } => {
            let mut result = json!({
                "type": "tool_result",
                "tool_use_id": legal_id(call_id),
                "content": content,
            });
            let mut images = images.iter().filter_map(image).peekable();
            if images.peek().is_some() {
                let text = json!({"type": "text", "text": content});
                let text = (!content.is_empty()).then_some(text);
                result["content"] = text.into_iter().chain(images).collect();
            }
            if *is_error {
                result["is_error"] = true.into();
            }
            Some(result)
        }
        Block::Opaque { native } => own(Some(native)),
        Block::Image { source } => image(source),
    }
}

/// An image that is not loaded cannot be shown.
fn image(source: &ImageSource) -> Option<Value> {
    let source = match source {
        ImageSource::Data { media_type, data } => {
            json!({"type": "base64", "media_type": media_type, "data": data})
        }
        ImageSource::Url { url } => json!({"type": "url", "url": url}),
        ImageSource::Stored { .. } => return None,
    };
    Some(json!({"type": "image", "source": source}))
}

/// Ids of other vendors may hold characters that this one refuses.
fn legal_id(id: &str) -> String {
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '_'
        }
    };
    id.chars().map(legal).collect()
}
