//! The stream of responses.

use std::collections::VecDeque;

use rune_store_runtime::{Block, StopReason, Usage};
use serde_json::{Value, json};

use crate::model::ModelEvent;
use crate::model::wire::{CallIds, Decode, Fault, Protocol, Reply, Step, parse_arguments};

const SIGNATURE: &str = "thoughtSignature";

/// Reads one reply.
#[derive(Debug)]
pub(in crate::model) struct Decoder {
    ids: CallIds,
    blocks: Vec<Block>,
    finish: Option<String>,
    finish_message: String,
    /// `promptFeedback.blockReason`: the prompt was refused, there is no candidate.
    blocked: Option<String>,
    usage: Option<Usage>,
}

impl Decoder {
    pub(in crate::model) const fn new(ids: CallIds) -> Self {
        Self {
            ids,
            blocks: Vec::new(),
            finish: None,
            finish_message: String::new(),
            blocked: None,
            usage: None,
        }
    }

    fn part(&mut self, part: &Value, out: &mut VecDeque<ModelEvent>) {
        if let Some(call) = part.get("functionCall") {
            self.call(part, call);
            return;
        }
        let Some(text) = part.get("text").and_then(Value::as_str) else {
            self.blocks.push(Block::Opaque {
                native: Protocol::Gemini.native(part.clone()),
            });
            return;
        };
        let thought = part.get("thought").and_then(Value::as_bool) == Some(true);
        if !text.is_empty() {
            let text = text.to_owned();
            out.push_back(if thought {
                ModelEvent::Reasoning(text)
            } else {
                ModelEvent::Text(text)
            });
        }
        self.text(part, text, thought);
    }

    /// A signature belongs to exactly one part: a signed part is never joined with others.
    fn text(&mut self, part: &Value, text: &str, thought: bool) {
        if part.get(SIGNATURE).is_some() {
            let native = Protocol::Gemini.native(part.clone());
            self.blocks.push(match (text, thought) {
                ("", _) => Block::Opaque { native },
                (text, true) => Block::Reasoning {
                    text: text.to_owned(),
                    native: Some(native),
                },
                (text, false) => Block::Text {
                    text: text.to_owned(),
                    native: Some(native),
                },
            });
            return;
        }
        if text.is_empty() {
            return;
        }
        match (self.blocks.last_mut(), thought) {
            (
                Some(Block::Text {
                    text: last,
                    native: None,
                }),
                false,
            )
            | (
                Some(Block::Reasoning {
                    text: last,
                    native: None,
                }),
                true,
            ) => last.push_str(text),
            (_, true) => self.blocks.push(Block::Reasoning {
                text: text.to_owned(),
                native: None,
            }),
            (_, false) => self.blocks.push(Block::text(text)),
        }
    }

    /// The part is always kept: a call without a signature must come back without one.
    fn call(&mut self, part: &Value, call: &Value) {
        let field = |name| call.get(name).and_then(Value::as_str).unwrap_or("");
        let id = self.ids.assign(field("id"));
        let input = match call.get("args") {
            Some(args @ Value::Object(_)) => args.clone(),
            Some(Value::String(text)) => parse_arguments(text),
            _ => json!({}),
        };
        self.blocks.push(Block::ToolCall {
            id,
            name: field("name").to_owned(),
            input,
            native: Some(Protocol::Gemini.native(part.clone())),
        });
    }
}

impl Decode for Decoder {
    fn event(&mut self, data: Value, out: &mut VecDeque<ModelEvent>) -> Result<Step, Fault> {
        if let Some(usage) = data.get("usageMetadata").filter(|usage| usage.is_object()) {
            self.usage = Some(counts(usage));
        }
        let blocked = data
            .pointer("/promptFeedback/blockReason")
            .and_then(Value::as_str);
        if let Some(reason) = blocked {
            self.blocked = Some(reason.to_owned());
        }
        let Some(candidate) = data.pointer("/candidates/0") else {
            return Ok(Step::More);
        };
        let parts = candidate
            .pointer("/content/parts")
            .and_then(Value::as_array);
        for part in parts.into_iter().flatten() {
            self.part(part, out);
        }
        if let Some(reason) = candidate.get("finishReason").and_then(Value::as_str) {
            self.finish = Some(reason.to_owned());
            let message = candidate.get("finishMessage").and_then(Value::as_str);
            message.unwrap_or("").clone_into(&mut self.finish_message);
        }
        Ok(Step::More)
    }

    fn complete(&self, _marked: bool) -> bool {
        self.finish.is_some() || self.blocked.is_some()
    }

    fn finish(&mut self) -> Result<Reply, Fault> {
        let stop = match self.finish.as_deref() {
            _ if self.blocked.is_some() => StopReason::Refusal,
            Some("MAX_TOKENS") => StopReason::MaxTokens,
            Some("CONTINUATION") => StopReason::Pause,
            Some(
                reason @ ("MALFORMED_FUNCTION_CALL"
                | "UNEXPECTED_TOOL_CALL"
                | "TOO_MANY_TOOL_CALLS"
                | "MALFORMED_RESPONSE"
                | "MISSING_THOUGHT_SIGNATURE"),
            ) => {
                let message = format!("the model ended with {reason} {}", self.finish_message);
                return Err(Fault::malformed(message.trim_end()));
            }
            Some(
                "SAFETY" | "RECITATION" | "LANGUAGE" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII"
                | "MODEL_ARMOR",
            ) => StopReason::Refusal,
            Some(reason) if reason.starts_with("IMAGE_") => StopReason::Refusal,
            _ => StopReason::EndTurn,
        };
        Ok(Reply {
            blocks: std::mem::take(&mut self.blocks),
            stop,
            usage: self.usage,
        })
    }
}

/// Candidates are counted without the thoughts.
pub(in crate::model) fn counts(usage: &Value) -> Usage {
    let count = |name| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
    let thoughts = count("thoughtsTokenCount");
    Usage {
        input_tokens: count("promptTokenCount").saturating_add(count("toolUsePromptTokenCount")),
        output_tokens: count("candidatesTokenCount").saturating_add(thoughts),
        cached_tokens: count("cachedContentTokenCount"),
        cache_write_tokens: 0,
        reasoning_tokens: thoughts,
    }
}
