//! The request.

use rune_store_runtime::{Block, Message, Role};
use serde_json::{Map, Value, json};

use crate::model::wire::{Protocol, arguments_object, native_json, ordered_results};
use crate::model::{ModelRequest, ToolDefinition};

/// The JSON of a streaming call.
pub(in crate::model) fn encode(request: &ModelRequest) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), request.model.as_str().into());
    body.insert("stream".into(), true.into());
    body.insert("stream_options".into(), json!({"include_usage": true}));
    body.insert("messages".into(), messages(request).into());
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
    Value::Object(body)
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

fn messages(request: &ModelRequest) -> Vec<Value> {
    let mut out = Vec::new();
    if !request.system.is_empty() {
        out.push(json!({"role": "system", "content": request.system}));
    }
    let mut calls: Vec<&str> = Vec::new();
    for message in &request.messages {
        match message.role {
            Role::User => out.push(json!({"role": "user", "content": message.text()})),
            Role::Assistant => {
                calls = call_ids(message);
                out.extend(assistant(message));
            }
            Role::Tool => {
                let results = ordered_results(&calls, &message.blocks);
                out.extend(results.into_iter().filter_map(result));
            }
        }
    }
    out
}

fn call_ids(message: &Message) -> Vec<&str> {
    let ids = message.blocks.iter().filter_map(|block| match block {
        Block::ToolCall { id, .. } => Some(id.as_str()),
        _ => None,
    });
    ids.collect()
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
            Block::Text { .. } | Block::ToolResult { .. } | Block::Opaque { .. } => {}
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

/// This protocol has no error flag: the text says it.
fn result(block: &Block) -> Option<Value> {
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
        format!("Error: {content}")
    } else {
        content.clone()
    };
    Some(json!({"role": "tool", "tool_call_id": call_id, "content": content}))
}
