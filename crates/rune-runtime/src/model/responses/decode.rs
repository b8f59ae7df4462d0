//! The stream of events.

use std::collections::{BTreeMap, VecDeque};

use rune_store_runtime::{Block, StopReason, Usage};
use serde_json::Value;

use crate::model::ModelEvent;
use crate::model::wire::{
    CallIds, Decode, Fault, Protocol, Reply, Step, error_fault, parse_arguments,
};

/// Reads one reply. What counts are the whole items; the deltas are only shown.
#[derive(Debug)]
pub(in crate::model) struct Decoder {
    ids: CallIds,
    /// By `output_index`, as they were when they were done.
    items: BTreeMap<usize, Value>,
    refused: bool,
    /// Reasoning was shown.
    reasoned: bool,
    /// `status` and, where it is `incomplete`, the reason.
    end: Option<(String, String)>,
    usage: Option<Usage>,
}

impl Decoder {
    pub(in crate::model) const fn new(ids: CallIds) -> Self {
        Self {
            ids,
            items: BTreeMap::new(),
            refused: false,
            reasoned: false,
            end: None,
            usage: None,
        }
    }

    fn done(&mut self, data: &Value) {
        let Some(item) = data.get("item").filter(|item| item.is_object()) else {
            return;
        };
        let next = self
            .items
            .last_key_value()
            .map_or(0, |(last, _)| last.saturating_add(1));
        let index = data.get("output_index").and_then(Value::as_u64);
        let index = index
            .and_then(|index| usize::try_from(index).ok())
            .unwrap_or(next);
        self.items.insert(index, item.clone());
    }

    /// The last event: whatever came without an event of its own is in its response.
    fn ended(&mut self, kind: &str, response: &Value) -> Result<(), Fault> {
        let status = response.get("status").and_then(Value::as_str);
        let status = status.unwrap_or_else(|| kind.trim_start_matches("response."));
        if matches!(status, "failed" | "cancelled") {
            return Err(error_fault(response.get("error").unwrap_or(&Value::Null)));
        }
        let output = response.get("output").and_then(Value::as_array);
        for (index, item) in output.into_iter().flatten().enumerate() {
            if item.is_object() {
                self.items.entry(index).or_insert_with(|| item.clone());
            }
        }
        self.usage = response.get("usage").and_then(usage);
        let reason = str_of(response, "/incomplete_details/reason");
        self.end = Some((status.to_owned(), reason.to_owned()));
        Ok(())
    }

    fn block(&mut self, item: Value) -> Option<Block> {
        Some(match str_of(&item, "/type") {
            "message" => {
                let text = joined(&item, "content", &["text", "refusal"]);
                self.refused |= has_refusal(&item);
                if text.is_empty() {
                    return None;
                }
                Block::Text {
                    text,
                    native: Some(Protocol::Responses.native(item)),
                }
            }
            "reasoning" => {
                let mut text = joined(&item, "summary", &["text"]);
                if text.is_empty() {
                    text = joined(&item, "content", &["text"]);
                }
                Block::Reasoning {
                    text,
                    native: Some(Protocol::Responses.native(item)),
                }
            }
            "function_call" => {
                let input = parse_arguments(str_of(&item, "/arguments"));
                Block::ToolCall {
                    id: self.ids.assign(str_of(&item, "/call_id")),
                    name: str_of(&item, "/name").to_owned(),
                    // What is no object does not go back as it came.
                    native: input.is_object().then(|| Protocol::Responses.native(item)),
                    input,
                }
            }
            _ => Block::Opaque {
                native: Protocol::Responses.native(item),
            },
        })
    }
}

impl Decode for Decoder {
    fn event(&mut self, data: Value, out: &mut VecDeque<ModelEvent>) -> Result<Step, Fault> {
        let delta = str_of(&data, "/delta");
        match str_of(&data, "/type") {
            "response.output_text.delta" | "response.refusal.delta" if !delta.is_empty() => {
                out.push_back(ModelEvent::Text(delta.to_owned()));
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta"
                if !delta.is_empty() =>
            {
                self.reasoned = true;
                out.push_back(ModelEvent::Reasoning(delta.to_owned()));
            }
            "response.reasoning_summary_part.added" if self.reasoned => {
                out.push_back(ModelEvent::Reasoning(PARTS.to_owned()));
            }
            "response.output_item.done" => self.done(&data),
            kind @ ("response.completed"
            | "response.incomplete"
            | "response.failed"
            | "response.cancelled") => {
                let kind = kind.to_owned();
                self.ended(&kind, data.get("response").unwrap_or(&Value::Null))?;
                return Ok(Step::End);
            }
            _ => {}
        }
        Ok(Step::More)
    }

    fn complete(&self, _marked: bool) -> bool {
        self.end.is_some()
    }

    fn finish(&mut self) -> Result<Reply, Fault> {
        let items = std::mem::take(&mut self.items);
        let mut blocks = Vec::new();
        for item in items.into_values() {
            blocks.extend(self.block(item));
        }
        let (status, reason) = self.end.take().unwrap_or_default();
        let stop = match (status.as_str(), reason.as_str()) {
            ("incomplete", "max_output_tokens") => StopReason::MaxTokens,
            ("incomplete", "content_filter") => StopReason::Refusal,
            _ if self.refused => StopReason::Refusal,
            _ => StopReason::EndTurn,
        };
        Ok(Reply {
            blocks,
            stop,
            usage: self.usage,
        })
    }
}

/// Between the parts of a summary.
const PARTS: &str = "\n\n";

/// The texts of the parts in `list`, in the first of `fields` that a part has.
fn joined(item: &Value, list: &str, fields: &[&str]) -> String {
    let parts = item.get(list).and_then(Value::as_array);
    let texts = parts
        .into_iter()
        .flatten()
        .filter_map(|part| fields.iter().find_map(|field| part.get(*field)?.as_str()));
    let gap = if list == "summary" { PARTS } else { "" };
    texts.collect::<Vec<_>>().join(gap)
}

fn has_refusal(item: &Value) -> bool {
    let parts = item.get("content").and_then(Value::as_array);
    parts
        .into_iter()
        .flatten()
        .any(|part| part.get("type").is_some_and(|kind| kind == "refusal"))
}

fn usage(usage: &Value) -> Option<Usage> {
    let count = |path| usage.pointer(path).and_then(Value::as_u64);
    let (input, output) = (count("/input_tokens"), count("/output_tokens"));
    if input.is_none() && output.is_none() {
        return None;
    }
    Some(Usage {
        input_tokens: input.unwrap_or(0),
        output_tokens: output.unwrap_or(0),
        cached_tokens: count("/input_tokens_details/cached_tokens").unwrap_or(0),
        cache_write_tokens: count("/input_tokens_details/cache_write_tokens").unwrap_or(0),
        reasoning_tokens: count("/output_tokens_details/reasoning_tokens").unwrap_or(0),
    })
}

fn str_of<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}
