//! The request.

use std::borrow::Cow;
use std::collections::HashMap;

use rune_store_runtime::{Block, ImageSource, Message, Role};
use serde_json::{Map, Value, json};

use crate::model::wire::{Protocol, arguments_object, native_json, ordered_results};
use crate::model::{ModelRequest, ToolDefinition};

/// What the vendor documents for calls that another model made: newer models demand a
/// signature on the first call of every step.
const FOREIGN_SIGNATURE: &str = "skip_thought_signature_validator";

/// The JSON of a streaming call; the model is in the URL.
pub(in crate::model) fn encode(request: &ModelRequest, native_schema: bool) -> Value {
    let mut body = Map::new();
    let schema = request.output_schema.as_deref();
    let schema =
        schema.filter(|_| native_schema && (request.tools.is_empty() || joins(&request.model)));
    let system = if schema.is_some() {
        Cow::Borrowed(request.system.as_str())
    } else {
        request.system_with_schema()
    };
    if !system.is_empty() {
        let system = json!({"parts": [{"text": system}]});
        body.insert("systemInstruction".into(), system);
    }
    if !request.tools.is_empty() {
        let tools: Vec<Value> = request.tools.iter().map(tool).collect();
        body.insert("tools".into(), json!([{ "functionDeclarations": tools }]));
    }
    body.insert("contents".into(), contents(request).into());
    let config = generation_config(request, schema);
    if !config.is_empty() {
        body.insert("generationConfig".into(), config.into());
    }
    Value::Object(body)
}

/// Whether a model takes tools and a schema of the answer in one request, and images in the results of tools: since
/// Gemini 3.
fn joins(model: &str) -> bool {
    let model = model.strip_prefix("models/").unwrap_or(model);
    let version = model.strip_prefix("gemini-").unwrap_or_default();
    let major = version.split(|c: char| !c.is_ascii_digit()).next();
    major
        .and_then(|major| major.parse().ok())
        .is_some_and(|major: u32| major >= 3)
}

fn generation_config(request: &ModelRequest, schema: Option<&Value>) -> Map<String, Value> {
    let mut config = Map::new();
    if let Some(schema) = schema {
        config.insert("responseMimeType".into(), "application/json".into());
        config.insert("responseJsonSchema".into(), schema.clone());
    }
    if let Some(limit) = request.max_output_tokens {
        config.insert("maxOutputTokens".into(), limit.into());
    }
    if let Some(temperature) = request.temperature {
        config.insert("temperature".into(), temperature.into());
    }
    if let Some(effort) = &request.reasoning_effort {
        let thinking = json!({"includeThoughts": true, "thinkingLevel": effort.to_uppercase()});
        config.insert("thinkingConfig".into(), thinking);
    }
    config
}

fn tool(tool: &ToolDefinition) -> Value {
    json!({
        "name": tool.name,
        "description": tool.description,
        "parametersJsonSchema": tool.input_schema,
    })
}

fn contents(request: &ModelRequest) -> Vec<Value> {
    let within = joins(&request.model);
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    let mut calls: Vec<&str> = Vec::new();
    // The provider's own id of each call, where it gave one.
    let mut own_ids: HashMap<&str, Value> = HashMap::new();
    for message in &request.messages {
        let (role, parts) = match message.role {
            Role::User => (
                "user",
                message.blocks.iter().filter_map(user_part).collect(),
            ),
            Role::Assistant => {
                calls.clear();
                for block in &message.blocks {
                    if let Block::ToolCall { id, native, .. } = block {
                        calls.push(id);
                        let native = native_json(native.as_ref(), Protocol::Gemini);
                        let own = native.and_then(|json| json.pointer("/functionCall/id"));
                        own.into_iter().for_each(|own| {
                            own_ids.insert(id, own.clone());
                        });
                    }
                }
                ("model", model_parts(message))
            }
            Role::Tool => {
                let results = ordered_results(&calls, &message.blocks).into_iter();
                let parts = results.filter_map(|block| result_part(block, &own_ids, within));
                ("user", parts.collect::<Vec<_>>())
            }
        };
        match turns.last_mut() {
            _ if parts.is_empty() => {}
            // Text after results starts a turn of its own: results stand alone.
            Some((last, turn)) if *last == role && message.role != Role::User => turn.extend(parts),
            _ => turns.push((role, parts)),
        }
        if message.role == Role::Tool && !within {
            let images = shown(&message.blocks);
            turns.extend((!images.is_empty()).then_some(("user", images)));
        }
    }
    turns
        .into_iter()
        .map(|(role, parts)| json!({"role": role, "parts": parts}))
        .collect()
}

fn user_part(block: &Block) -> Option<Value> {
    match block {
        Block::Image { source } => image_part(source),
        _ => text_part(block),
    }
}

/// An image that is not loaded cannot be shown.
fn image_part(source: &ImageSource) -> Option<Value> {
    match source {
        ImageSource::Data { media_type, data } => {
            Some(json!({"inlineData": {"mimeType": media_type, "data": data}}))
        }
        ImageSource::Url { url } => Some(json!({"fileData": {"fileUri": url}})),
        ImageSource::Stored { .. } => None,
    }
}

fn text_part(block: &Block) -> Option<Value> {
    match block {
        Block::Text { text, .. } if !text.is_empty() => Some(json!({ "text": text })),
        _ => None,
    }
}

fn model_parts(message: &Message) -> Vec<Value> {
    let mut first_call = true;
    let mut parts = Vec::new();
    for block in &message.blocks {
        let (Block::Text { native, .. }
        | Block::Reasoning { native, .. }
        | Block::ToolCall { native, .. }) = block
        else {
            if let Block::Opaque { native } = block {
                parts.extend(native_json(Some(native), Protocol::Gemini).cloned());
            }
            continue;
        };
        if let Some(own) = native_json(native.as_ref(), Protocol::Gemini) {
            parts.push(own.clone());
        } else if let Block::ToolCall { name, input, .. } = block {
            let mut part = json!({"functionCall": {"name": name, "args": arguments_object(input)}});
            if first_call {
                part["thoughtSignature"] = FOREIGN_SIGNATURE.into();
            }
            parts.push(part);
        } else {
            parts.extend(text_part(block));
        }
        first_call &= !matches!(block, Block::ToolCall { .. });
    }
    parts
}

/// Images of tools' results, for models that take none in the results themselves.
fn shown(blocks: &[Block]) -> Vec<Value> {
    let mut parts = Vec::new();
    for block in blocks {
        let Block::ToolResult { name, images, .. } = block else {
            continue;
        };
        let mut images = images.iter().filter_map(image_part).peekable();
        if images.peek().is_some() {
            parts.push(json!({"text": format!("[images of the result of {name}]")}));
        }
        parts.extend(images);
    }
    parts
}

fn result_part(block: &Block, own_ids: &HashMap<&str, Value>, within: bool) -> Option<Value> {
    let Block::ToolResult {
        call_id,
        name,
        content,
        images,
        is_error,
    } = block
    else {
        return None;
    };
    let key = if *is_error { "error" } else { "output" };
    let mut response = json!({"name": name, "response": {key: content}});
    if let Some(id) = own_ids.get(call_id.as_str()) {
        response["id"] = id.clone();
    }
    let images: Vec<Value> = images.iter().filter_map(image_part).collect();
    if within && !images.is_empty() {
        response["parts"] = images.into();
    }
    Some(json!({ "functionResponse": response }))
}
