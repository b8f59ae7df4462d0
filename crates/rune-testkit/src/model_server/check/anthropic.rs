use serde_json::Value;

use super::{
    Incoming, Rejection, duplicate, flag, is_base64, is_identifier, list, text, unknown_field,
    valid_tool_name,
};
use crate::model_server::{
    conversation::{Conversation, Step},
    issuer::sign,
};

const VERSIONS: [&str; 2] = ["2023-06-01", "2026-10-21"];
/// Refused since version 2026-10-21.
const SAMPLING: [&str; 3] = ["temperature", "top_p", "top_k"];
const IMAGE_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
/// Keywords of a schema that structured output does not take.
const UNSUPPORTED: [&str; 6] = [
    "minimum",
    "maximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
];
const MAX_CACHE_BREAKPOINTS: usize = 4;
const MIN_THINKING_BUDGET: u64 = 1024;
const KNOWN: [&str; 26] = [
    "model",
    "max_tokens",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "stop_sequences",
    "stream",
    "thinking",
    "output_config",
    "metadata",
    "service_tier",
    "speed",
    "cache_control",
    "container",
    "diagnostics",
    "inference_geo",
    "context_management",
    "mcp_servers",
    "fallbacks",
    "compaction",
    "thread",
    "betas",
    "temperature",
    "top_p",
    "top_k",
];

/// Consecutive messages of one role, as the vendor merges them.
struct Turn<'a> {
    assistant: bool,
    /// The index of the first message.
    index: usize,
    blocks: Vec<&'a Value>,
    /// Contents given as plain strings.
    strings: Vec<&'a str>,
    /// A plain string came before any block.
    string_first: bool,
}

impl<'a> Turn<'a> {
    fn of_type(&self, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.blocks
            .iter()
            .copied()
            .filter(move |block| text(block, "type") == kind)
    }

    fn results(&self) -> Vec<&'a str> {
        self.of_type("tool_result")
            .map(|block| text(block, "tool_use_id"))
            .collect()
    }

    fn text(&self) -> String {
        let blocks = self.of_type("text").map(|block| text(block, "text"));
        self.strings
            .iter()
            .copied()
            .chain(blocks)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

pub(super) fn check(incoming: &Incoming<'_>) -> Result<Conversation, Rejection> {
    let body = incoming.body;
    key(incoming)?;
    let version = incoming
        .header("anthropic-version")
        .ok_or_else(|| Rejection::bad("anthropic-version: header is required"))?;
    if !VERSIONS.contains(&version) {
        return Err(Rejection::bad(format!(
            "anthropic-version: {version:?} is not a valid version"
        )));
    }
    fields(body, version)?;
    tools(body)?;
    let turns = turns(body)?;
    pairs(&turns)?;
    thinking(incoming, &turns)?;
    Ok(Conversation {
        model: text(body, "model").to_owned(),
        stream: flag(body, "stream"),
        include_usage: true,
        include_reasoning: false,
        steps: turns.iter().map(step).collect(),
    })
}

fn key(incoming: &Incoming<'_>) -> Result<(), Rejection> {
    let key = incoming.header("x-api-key").or_else(|| incoming.bearer());
    match key {
        None => Err(Rejection::new(401, "x-api-key header is required")),
        Some(key) if !incoming.accepts(key) => Err(Rejection::new(401, "invalid x-api-key")),
        Some(_) => Ok(()),
    }
}

fn fields(body: &Value, version: &str) -> Result<(), Rejection> {
    if let Some(field) = unknown_field(body, &KNOWN) {
        return Err(Rejection::bad(format!(
            "{field}: Extra inputs are not permitted"
        )));
    }
    if let Some(field) = SAMPLING
        .iter()
        .find(|field| version != VERSIONS[0] && body.get(**field).is_some())
    {
        return Err(Rejection::bad(format!(
            "{field}: Extra inputs are not permitted"
        )));
    }
    if text(body, "model").is_empty() {
        return Err(Rejection::bad("model: Field required"));
    }
    let max_tokens = body
        .get("max_tokens")
        .ok_or_else(|| Rejection::bad("max_tokens: Field required"))?;
    let max_tokens = max_tokens
        .as_u64()
        .ok_or_else(|| Rejection::bad("max_tokens: Input should be a valid integer"))?;
    if let Some(budget) = body
        .pointer("/thinking/budget_tokens")
        .and_then(Value::as_u64)
    {
        if budget < MIN_THINKING_BUDGET {
            let message =
                "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024";
            return Err(Rejection::bad(message));
        }
        if budget >= max_tokens {
            return Err(Rejection::bad(
                "`max_tokens` must be greater than `thinking.budget_tokens`",
            ));
        }
    }
    output_schema(
        body.pointer("/output_config/format/schema")
            .unwrap_or(&Value::Null),
    )?;
    let breakpoints = count_key(body, "cache_control");
    if breakpoints > MAX_CACHE_BREAKPOINTS {
        let message = format!(
            "A maximum of 4 blocks with cache_control may be provided. Found {breakpoints}."
        );
        return Err(Rejection::bad(message));
    }
    Ok(())
}

fn count_key(value: &Value, key: &str) -> usize {
    match value {
        Value::Array(items) => items.iter().map(|item| count_key(item, key)).sum(),
        Value::Object(fields) => {
            let inside = fields
                .iter()
                .filter(|(name, _)| *name != "input" && *name != "input_schema");
            usize::from(fields.get(key).is_some_and(|value| !value.is_null()))
                + inside
                    .map(|(_, value)| count_key(value, key))
                    .sum::<usize>()
        }
        _ => 0,
    }
}

fn tools(body: &Value) -> Result<(), Rejection> {
    let tools = list(body, "tools");
    // Server tools have a type of their own and no schema.
    let custom = |tool: &&Value| matches!(text(tool, "type"), "" | "custom");
    for (index, tool) in tools.iter().enumerate().filter(|(_, tool)| custom(tool)) {
        if !valid_tool_name(text(tool, "name")) {
            let message = format!(
                "tools.{index}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
            );
            return Err(Rejection::bad(message));
        }
        if tool.pointer("/input_schema/type").and_then(Value::as_str) != Some("object") {
            return Err(Rejection::bad(format!(
                "tools.{index}.custom.input_schema.type: Field required"
            )));
        }
    }
    match duplicate(tools.iter().map(|tool| text(tool, "name"))) {
        Some(_) => Err(Rejection::bad("tools: Tool names must be unique.")),
        None => Ok(()),
    }
}

fn turns(body: &Value) -> Result<Vec<Turn<'_>>, Rejection> {
    let messages = list(body, "messages");
    if messages.is_empty() {
        return Err(Rejection::bad("messages: at least one message is required"));
    }
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let assistant = match text(message, "role") {
            "user" => false,
            "assistant" => true,
            "system" => continue,
            _ => {
                let message = format!(
                    "messages.{index}.role: Input should be 'user', 'assistant' or 'system'"
                );
                return Err(Rejection::bad(message));
            }
        };
        if turns.last().is_none_or(|turn| turn.assistant != assistant) {
            turns.push(Turn {
                assistant,
                index,
                blocks: Vec::new(),
                strings: Vec::new(),
                string_first: false,
            });
        }
        let last = index + 1 == messages.len();
        if let Some(turn) = turns.last_mut() {
            add_content(turn, index, message, assistant && last)?;
        }
    }
    match turns.first() {
        Some(first) if first.assistant => Err(Rejection::bad(
            "messages: first message must use the \"user\" role",
        )),
        _ => Ok(turns),
    }
}

fn add_content<'a>(
    turn: &mut Turn<'a>,
    index: usize,
    message: &'a Value,
    may_be_empty: bool,
) -> Result<(), Rejection> {
    let empty = || {
        let message = format!(
            "messages.{index}: all messages must have non-empty content except for the optional final assistant message"
        );
        Err(Rejection::bad(message))
    };
    match message.get("content") {
        Some(Value::String(content)) if !content.is_empty() || may_be_empty => {
            turn.string_first |= turn.blocks.is_empty();
            turn.strings.push(content);
        }
        Some(Value::Array(blocks)) if !blocks.is_empty() || may_be_empty => {
            for (at, content) in blocks.iter().enumerate() {
                block(
                    turn.assistant,
                    &format!("messages.{index}.content.{at}"),
                    content,
                )?;
                turn.blocks.push(content);
            }
        }
        Some(Value::String(_) | Value::Array(_)) => return empty(),
        _ => {
            return Err(Rejection::bad(format!(
                "messages.{index}.content: Field required"
            )));
        }
    }
    Ok(())
}

fn block(assistant: bool, at: &str, block: &Value) -> Result<(), Rejection> {
    match (text(block, "type"), assistant) {
        ("text", _) if text(block, "text").is_empty() => Err(Rejection::bad(format!(
            "{at}.text: text content blocks must be non-empty"
        ))),
        ("tool_use", false) => Err(Rejection::bad(format!(
            "{at}: `tool_use` blocks can only be in `assistant` messages"
        ))),
        ("tool_result", true) => Err(Rejection::bad(format!(
            "{at}: `tool_result` blocks can only be in `user` messages"
        ))),
        ("tool_use", true) if !is_identifier(text(block, "id")) => Err(Rejection::bad(format!(
            "{at}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
        ))),
        ("tool_use", true) if !block.get("input").is_some_and(Value::is_object) => {
            Err(Rejection::bad(format!(
                "{at}.tool_use.input: Input should be a valid dictionary"
            )))
        }
        ("tool_use", true) if !valid_tool_name(text(block, "name")) => Err(Rejection::bad(
            format!("{at}.tool_use.name: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"),
        )),
        ("thinking", true) if text(block, "signature") != sign(text(block, "thinking")) => Err(
            Rejection::bad(format!("{at}: Invalid `signature` in `thinking` block")),
        ),
        ("image", true) => Err(Rejection::bad(format!(
            "{at}: `image` blocks can only be in `user` messages"
        ))),
        ("image", false) => image(at, block),
        ("", _) => Err(Rejection::bad(format!("{at}.type: Field required"))),
        _ => Ok(()),
    }
}

fn image(at: &str, block: &Value) -> Result<(), Rejection> {
    let field = |name: &str| {
        let value = block.pointer(&format!("/source/{name}"));
        value.and_then(Value::as_str).unwrap_or_default()
    };
    let good = match field("type") {
        "base64" => IMAGE_TYPES.contains(&field("media_type")) && is_base64(field("data")),
        "url" => field("url").starts_with("https://") || field("url").starts_with("http://"),
        _ => false,
    };
    if good {
        return Ok(());
    }
    Err(Rejection::bad(format!(
        "{at}.image.source: Could not process image"
    )))
}

/// Objects are closed, and of the keywords that limit a value only some are known.
fn output_schema(schema: &Value) -> Result<(), Rejection> {
    let Value::Object(fields) = schema else {
        return Ok(());
    };
    let refuse = |what: String| {
        Err(Rejection::bad(format!(
            "output_config.format.schema: {what}"
        )))
    };
    if fields.get("type").is_some_and(|kind| kind == "object")
        && fields.get("additionalProperties") != Some(&Value::Bool(false))
    {
        return refuse(
            "For 'object' type, 'additionalProperties' must be explicitly set to false".to_owned(),
        );
    }
    if let Some(word) = UNSUPPORTED.iter().find(|word| fields.contains_key(**word)) {
        return refuse(format!("property '{word}' is not supported"));
    }
    let properties = fields.get("properties").and_then(Value::as_object);
    let inside = properties.into_iter().flatten().map(|(_, schema)| schema);
    inside
        .chain(fields.get("items"))
        .try_for_each(output_schema)
}

/// Every call has its result in the next turn, first thing, and every result its call in the one before.
fn pairs(turns: &[Turn<'_>]) -> Result<(), Rejection> {
    let ids = turns
        .iter()
        .flat_map(|turn| turn.of_type("tool_use"))
        .map(|block| text(block, "id"));
    if duplicate(ids).is_some() {
        return Err(Rejection::bad("messages: `tool_use` ids must be unique"));
    }
    for (position, turn) in turns.iter().enumerate() {
        let before = position
            .checked_sub(1)
            .and_then(|position| turns.get(position));
        let calls: Vec<&str> = before
            .map(|turn| {
                turn.of_type("tool_use")
                    .map(|block| text(block, "id"))
                    .collect()
            })
            .unwrap_or_default();
        let results = turn.results();
        if let Some(stray) = results.iter().find(|id| !calls.contains(id)) {
            return Err(Rejection::bad(format!(
                "messages.{}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {stray}. Each \
                 `tool_result` block must have a corresponding `tool_use` block in the previous message.",
                turn.index
            )));
        }
        if let Some(id) = duplicate(results.iter().copied()) {
            return Err(Rejection::bad(format!(
                "messages.{}.content: each tool_use must have a single result. Found multiple `tool_result` blocks \
                 with id: {id}",
                turn.index
            )));
        }
        let leading = turn
            .blocks
            .iter()
            .take_while(|block| text(block, "type") == "tool_result")
            .count();
        let in_front = leading == results.len() && (results.is_empty() || !turn.string_first);
        if let Some(before) = before.filter(|_| results.len() < calls.len() || !in_front) {
            return Err(orphans(before.index, &calls, &results, in_front));
        }
    }
    // A history may not end with calls either.
    match turns.last().filter(|turn| turn.assistant) {
        Some(last) if last.of_type("tool_use").next().is_some() => {
            let calls: Vec<&str> = last
                .of_type("tool_use")
                .map(|block| text(block, "id"))
                .collect();
            Err(orphans(last.index, &calls, &[], true))
        }
        _ => Ok(()),
    }
}

fn orphans(index: usize, calls: &[&str], results: &[&str], in_front: bool) -> Rejection {
    let missing: Vec<&str> = calls
        .iter()
        .copied()
        .filter(|id| !in_front || !results.contains(id))
        .collect();
    Rejection::bad(format!(
        "messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each \
         `tool_use` block must have a corresponding `tool_result` block in the next message.",
        missing.join(", ")
    ))
}

/// In the current turn the thinking that led to a call comes back with it, in front.
fn thinking(incoming: &Incoming<'_>, turns: &[Turn<'_>]) -> Result<(), Rejection> {
    if incoming
        .body
        .pointer("/thinking/type")
        .and_then(Value::as_str)
        == Some("disabled")
    {
        return Ok(());
    }
    let current = turns
        .iter()
        .rev()
        .take_while(|turn| turn.assistant || !turn.results().is_empty());
    for turn in current.filter(|turn| turn.assistant) {
        for call in turn.of_type("tool_use") {
            let Some(signature) = incoming.issuer.signature_of(text(call, "id")) else {
                continue;
            };
            let first = turn.blocks.first().map_or("", |block| text(block, "type"));
            let echoed = turn
                .of_type("thinking")
                .any(|block| text(block, "signature") == signature);
            if first != "thinking" || !echoed {
                return Err(Rejection::bad(format!(
                    "messages.{}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{first}`. \
                     When `thinking` is enabled, a final `assistant` message must start with a thinking block.",
                    turn.index
                )));
            }
        }
    }
    Ok(())
}

fn step(turn: &Turn<'_>) -> Step {
    match (turn.assistant, turn.results().len()) {
        (true, _) => Step::Assistant,
        (false, 0) => Step::User(turn.text()),
        (false, results) => Step::Results(results),
    }
}
