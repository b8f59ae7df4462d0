//! The stream of chunks.

use std::collections::VecDeque;

use rune_store_runtime::{Block, StopReason, Usage};
use serde_json::{Map, Value};

use super::calls::Calls;
use super::details;
use crate::model::wire::{CallIds, Decode, Fault, Protocol, Reply, Step};
use crate::model::{ModelErrorKind, ModelEvent};

/// Where servers put the text of the reasoning.
const REASONING: [&str; 2] = ["reasoning_content", "reasoning"];
/// Where servers put structured reasoning.
const DETAILS: [&str; 2] = ["reasoning_details", "thinking_blocks"];

/// Reads one reply.
#[derive(Debug)]
pub(in crate::model) struct Decoder {
    ids: CallIds,
    text: String,
    refused: bool,
    /// Which of [`REASONING`] the server uses, and the text.
    reasoning: Option<(&'static str, String)>,
    details: [Vec<Value>; 2],
    calls: Calls,
    /// `finish_reason`.
    finish: Option<String>,
    usage: Option<Usage>,
    started: bool,
}

impl Decoder {
    pub(in crate::model) fn new(ids: CallIds) -> Self {
        Self {
            ids,
            text: String::new(),
            refused: false,
            reasoning: None,
            details: [Vec::new(), Vec::new()],
            calls: Calls::default(),
            finish: None,
            usage: None,
            started: false,
        }
    }

    fn delta(&mut self, delta: &Value, out: &mut VecDeque<ModelEvent>) {
        self.reasoning(delta, out);
        let texts = match delta.get("content") {
            Some(Value::String(text)) => vec![text.as_str()],
            Some(Value::Array(parts)) => parts
                .iter()
                .filter_map(|part| part.get("text").and_then(Value::as_str))
                .collect(),
            _ => Vec::new(),
        };
        let refusal = delta.get("refusal").and_then(Value::as_str).unwrap_or("");
        self.refused |= !refusal.is_empty();
        for text in texts.into_iter().chain([refusal]) {
            if !text.is_empty() {
                self.text.push_str(text);
                out.push_back(ModelEvent::Text(text.to_owned()));
            }
        }
        if let Some(calls) = delta.get("tool_calls") {
            self.calls.add(calls);
        }
    }

    fn reasoning(&mut self, delta: &Value, out: &mut VecDeque<ModelEvent>) {
        // Some servers fill both fields with the same text.
        let found = REASONING.iter().find_map(|field| {
            let text = delta.get(field)?.as_str()?;
            (!text.is_empty()).then_some((*field, text))
        });
        if let Some((field, text)) = found {
            let (_, all) = self.reasoning.get_or_insert((field, String::new()));
            all.push_str(text);
            out.push_back(ModelEvent::Reasoning(text.to_owned()));
        }
        for (field, entries) in DETAILS.iter().zip(&mut self.details) {
            if let Some(fragments) = delta.get(field) {
                details::add(entries, fragments);
            }
        }
    }

    /// The reasoning with the fields that the server wants back.
    fn reasoning_block(&mut self) -> Option<Block> {
        let mut fields = Map::new();
        let mut said = String::new();
        if let Some((field, text)) = self.reasoning.take() {
            fields.insert(field.into(), text.clone().into());
            said = text;
        }
        for (field, entries) in DETAILS.iter().zip(&mut self.details) {
            if !entries.is_empty() {
                fields.insert((*field).into(), std::mem::take(entries).into());
            }
        }
        (!fields.is_empty()).then(|| Block::Reasoning {
            text: said,
            native: Some(Protocol::OpenAi.native(Value::Object(fields))),
        })
    }
}

impl Decode for Decoder {
    fn event(&mut self, data: Value, out: &mut VecDeque<ModelEvent>) -> Result<Step, Fault> {
        let choice = data.pointer("/choices/0");
        let usages = [
            data.get("usage"),
            choice.and_then(|choice| choice.get("usage")),
        ];
        if let Some(usage) = usages.into_iter().flatten().find_map(usage) {
            self.usage = Some(usage);
        }
        let Some(choice) = choice else {
            return Ok(Step::More);
        };
        self.started = true;
        if let Some(delta) = choice.get("delta").or_else(|| choice.get("message")) {
            self.delta(delta, out);
        }
        match choice.get("finish_reason").and_then(Value::as_str) {
            Some("error" | "insufficient_system_resource") => {
                let message = "the provider gave up in the middle of the reply";
                return Err(Fault::new(ModelErrorKind::Overloaded, message));
            }
            Some(reason) if !reason.is_empty() => self.finish = Some(reason.to_owned()),
            _ => {}
        }
        Ok(Step::More)
    }

    fn complete(&self, marked: bool) -> bool {
        self.finish.is_some() || (marked && self.started)
    }

    fn finish(&mut self) -> Result<Reply, Fault> {
        let mut blocks: Vec<Block> = self.reasoning_block().into_iter().collect();
        if !self.text.is_empty() {
            blocks.push(Block::text(std::mem::take(&mut self.text)));
        }
        blocks.extend(std::mem::take(&mut self.calls).finish(&mut self.ids));
        let stop = match self.finish.as_deref() {
            Some("length") => StopReason::MaxTokens,
            Some("content_filter") => StopReason::Refusal,
            _ if self.refused => StopReason::Refusal,
            Some("tool_calls" | "function_call") => StopReason::ToolUse,
            _ => StopReason::EndTurn,
        };
        Ok(Reply {
            blocks,
            stop,
            usage: self.usage,
        })
    }
}

fn usage(usage: &Value) -> Option<Usage> {
    let count = |path| usage.pointer(path).and_then(Value::as_u64);
    let input = count("/prompt_tokens");
    let output = count("/completion_tokens");
    if input.is_none() && output.is_none() {
        return None;
    }
    let cached =
        count("/prompt_tokens_details/cached_tokens").or_else(|| count("/prompt_cache_hit_tokens"));
    Some(Usage {
        input_tokens: input.unwrap_or(0),
        output_tokens: output.unwrap_or(0),
        cached_tokens: cached.unwrap_or(0),
        cache_write_tokens: count("/prompt_tokens_details/cache_write_tokens").unwrap_or(0),
        reasoning_tokens: count("/completion_tokens_details/reasoning_tokens").unwrap_or(0),
    })
}
