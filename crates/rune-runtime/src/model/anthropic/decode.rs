//! The stream of events.

use std::collections::{BTreeMap, VecDeque};

use rune_store_runtime::{Block, StopReason, Usage};
use serde_json::{Map, Value, json};

use crate::model::wire::{CallIds, Decode, Fault, Protocol, Reply, Step, parse_arguments};
use crate::model::{ModelErrorKind, ModelEvent};

/// Reads one reply.
#[derive(Debug)]
pub(in crate::model) struct Decoder {
    ids: CallIds,
    /// By `index`, which is the order of the reply.
    blocks: BTreeMap<u64, OpenBlock>,
    stop: Option<String>,
    refusal: Option<String>,
    counts: Counts,
    ended: bool,
}

/// A block as far as it has come.
#[derive(Debug, Default)]
struct OpenBlock {
    /// As it started.
    start: Map<String, Value>,
    text: String,
    thinking: String,
    signature: String,
    arguments: String,
    citations: Vec<Value>,
}

/// What the provider has counted so far. Later figures replace earlier ones.
#[derive(Debug, Default)]
struct Counts {
    seen: bool,
    input: u64,
    cache_write: u64,
    cache_read: u64,
    output: u64,
    thinking: u64,
}

impl Decoder {
    pub(in crate::model) fn new(ids: CallIds) -> Self {
        Self {
            ids,
            blocks: BTreeMap::new(),
            stop: None,
            refusal: None,
            counts: Counts::default(),
            ended: false,
        }
    }

    fn start(&mut self, data: &Value, out: &mut VecDeque<ModelEvent>) {
        let next = self
            .blocks
            .last_key_value()
            .map_or(0, |(last, _)| last.saturating_add(1));
        let index = data.get("index").and_then(Value::as_u64).unwrap_or(next);
        let Some(Value::Object(start)) = data.get("content_block") else {
            return;
        };
        let mut block = OpenBlock {
            start: start.clone(),
            ..OpenBlock::default()
        };
        // Usually empty here.
        block.add_text(str_of(data, "/content_block/text"), out);
        block.add_thinking(str_of(data, "/content_block/thinking"), out);
        block
            .signature
            .push_str(str_of(data, "/content_block/signature"));
        self.blocks.insert(index, block);
    }

    fn delta(&mut self, data: &Value, out: &mut VecDeque<ModelEvent>) {
        let last = self.blocks.last_key_value().map_or(0, |(last, _)| *last);
        let index = data.get("index").and_then(Value::as_u64).unwrap_or(last);
        let block = self.blocks.entry(index).or_default();
        match str_of(data, "/delta/type") {
            "text_delta" => block.add_text(str_of(data, "/delta/text"), out),
            "thinking_delta" => block.add_thinking(str_of(data, "/delta/thinking"), out),
            "signature_delta" => block.signature.push_str(str_of(data, "/delta/signature")),
            "input_json_delta" => block
                .arguments
                .push_str(str_of(data, "/delta/partial_json")),
            "citations_delta" => block
                .citations
                .extend(data.pointer("/delta/citation").cloned()),
            _ => {}
        }
    }
}

impl Decode for Decoder {
    fn event(&mut self, data: Value, out: &mut VecDeque<ModelEvent>) -> Result<Step, Fault> {
        match str_of(&data, "/type") {
            "message_start" => self.counts.take(data.pointer("/message/usage")),
            "content_block_start" => self.start(&data, out),
            "content_block_delta" => self.delta(&data, out),
            "message_delta" => {
                self.counts.take(data.get("usage"));
                if let Some(stop) = data.pointer("/delta/stop_reason").and_then(Value::as_str) {
                    self.stop = Some(stop.to_owned());
                }
                let explanation = str_of(&data, "/delta/stop_details/explanation");
                if !explanation.is_empty() {
                    self.refusal = Some(explanation.to_owned());
                }
            }
            "message_stop" => {
                self.ended = true;
                return Ok(Step::End);
            }
            _ => {}
        }
        Ok(Step::More)
    }

    fn complete(&self, _marked: bool) -> bool {
        self.ended
    }

    fn finish(&mut self) -> Result<Reply, Fault> {
        let mut blocks: Vec<Block> = Vec::new();
        for open in std::mem::take(&mut self.blocks).into_values() {
            blocks.extend(open.close(&mut self.ids));
        }
        let stop = match self.stop.as_deref() {
            Some("max_tokens") => StopReason::MaxTokens,
            Some("tool_use") => StopReason::ToolUse,
            Some("pause_turn") => StopReason::Pause,
            Some("refusal") => StopReason::Refusal,
            Some("model_context_window_exceeded") if blocks.is_empty() => {
                let message = "the conversation fills the model's context window";
                return Err(Fault::new(ModelErrorKind::ContextOverflow, message));
            }
            Some("model_context_window_exceeded") => StopReason::MaxTokens,
            _ => StopReason::EndTurn,
        };
        if let Some(explanation) = self.refusal.take().filter(|_| blocks.is_empty()) {
            blocks.push(Block::text(explanation));
        }
        Ok(Reply {
            blocks,
            stop,
            usage: self.counts.usage(),
        })
    }
}

impl OpenBlock {
    fn add_text(&mut self, text: &str, out: &mut VecDeque<ModelEvent>) {
        if !text.is_empty() {
            self.text.push_str(text);
            out.push_back(ModelEvent::Text(text.to_owned()));
        }
    }

    fn add_thinking(&mut self, text: &str, out: &mut VecDeque<ModelEvent>) {
        if !text.is_empty() {
            self.thinking.push_str(text);
            out.push_back(ModelEvent::Reasoning(text.to_owned()));
        }
    }

    /// What was said after the start is put where the provider would have it.
    fn close(mut self, ids: &mut CallIds) -> Option<Block> {
        let kind = self.start.get("type").and_then(Value::as_str);
        match kind.unwrap_or_else(|| self.guess()).to_owned().as_str() {
            "text" => self.into_text(),
            "thinking" => {
                self.start.insert("type".into(), "thinking".into());
                self.start
                    .insert("thinking".into(), self.thinking.clone().into());
                self.start.insert("signature".into(), self.signature.into());
                Some(Block::Reasoning {
                    text: self.thinking,
                    native: Some(Protocol::Anthropic.native(Value::Object(self.start))),
                })
            }
            "tool_use" => Some(self.into_call(ids)),
            _ => {
                if !self.arguments.is_empty() {
                    let input = parse_arguments(&self.arguments);
                    self.start.insert("input".into(), input);
                }
                Some(Block::Opaque {
                    native: Protocol::Anthropic.native(Value::Object(self.start)),
                })
            }
        }
    }

    /// The type of a block whose start was lost.
    fn guess(&self) -> &'static str {
        if self.thinking.is_empty() {
            "text"
        } else {
            "thinking"
        }
    }

    fn into_text(mut self) -> Option<Block> {
        if self.text.is_empty() {
            return None;
        }
        self.start.insert("type".into(), "text".into());
        self.start.insert("text".into(), self.text.clone().into());
        if !self.citations.is_empty() {
            self.start.insert("citations".into(), self.citations.into());
        }
        self.start
            .retain(|_, value| !value.is_null() && *value != json!([]));
        // `type` and `text` are what it is rebuilt from.
        let native =
            (self.start.len() > 2).then(|| Protocol::Anthropic.native(Value::Object(self.start)));
        Some(Block::Text {
            text: self.text,
            native,
        })
    }

    fn into_call(mut self, ids: &mut CallIds) -> Block {
        let field = |name| self.start.get(name).and_then(Value::as_str).unwrap_or("");
        let given = field("id").to_owned();
        let name = field("name").to_owned();
        let id = ids.assign(&given);
        let started = self.start.remove("input");
        let input = match (self.arguments.as_str(), started) {
            ("", Some(Value::String(text))) => parse_arguments(&text),
            ("", Some(input @ Value::Object(_))) => input,
            (arguments, _) => parse_arguments(arguments),
        };
        self.start.retain(|_, value| !value.is_null());
        // `type`, `id` and `name` are what it is rebuilt from.
        let native = (self.start.len() > 3 && input.is_object()).then(|| {
            self.start.insert("id".into(), id.clone().into());
            self.start.insert("input".into(), input.clone());
            Protocol::Anthropic.native(Value::Object(self.start))
        });
        Block::ToolCall {
            id,
            name,
            input,
            native,
        }
    }
}

impl Counts {
    fn take(&mut self, usage: Option<&Value>) {
        let Some(usage) = usage.filter(|usage| usage.is_object()) else {
            return;
        };
        self.seen = true;
        let fields = [
            ("/input_tokens", &mut self.input),
            ("/cache_creation_input_tokens", &mut self.cache_write),
            ("/cache_read_input_tokens", &mut self.cache_read),
            ("/output_tokens", &mut self.output),
            ("/output_tokens_details/thinking_tokens", &mut self.thinking),
        ];
        for (path, count) in fields {
            if let Some(value) = usage.pointer(path).and_then(Value::as_u64) {
                *count = value;
            }
        }
    }

    /// This vendor's `input_tokens` leaves the cache out.
    fn usage(&self) -> Option<Usage> {
        let input = self.input.saturating_add(self.cache_write);
        self.seen.then(|| Usage {
            input_tokens: input.saturating_add(self.cache_read),
            output_tokens: self.output,
            cached_tokens: self.cache_read,
            cache_write_tokens: self.cache_write,
            reasoning_tokens: self.thinking,
        })
    }
}

fn str_of<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}
