use bytes::Bytes;
use serde_json::{Value, json};

use super::{Frame, sse};
use crate::model_server::{
    answer::{Answer, Call},
    check::Rejection,
    frame::FrameKind,
    reply::{Stop, Usage},
};

/// A fixed creation time: nothing may depend on it.
const CREATED: u64 = 1_780_000_000;

pub(crate) fn stream(answer: &Answer) -> Vec<Frame> {
    let mut events = Events::default();
    let begun = response(answer, "in_progress", &json!([]), &Value::Null);
    events.push(
        FrameKind::Frame,
        "response.created",
        json!({"response": begun}),
    );
    events.push(
        FrameKind::Frame,
        "response.in_progress",
        json!({"response": begun}),
    );
    if !answer.reasoning.is_empty() {
        events.reasoning(answer);
    }
    if !answer.text.is_empty() {
        events.message(answer);
    }
    for (index, call) in answer.calls.iter().enumerate() {
        events.call(&function_call(answer, index, call), call);
    }
    let (terminal, response) = end(answer);
    events.push(FrameKind::Finish, terminal, json!({"response": response}));
    events.frames
}

#[derive(Default)]
struct Events {
    frames: Vec<Frame>,
    output_index: usize,
}

impl Events {
    fn push(&mut self, kind: FrameKind, event: &str, mut value: Value) {
        value["type"] = json!(event);
        value["sequence_number"] = json!(self.frames.len());
        self.frames.push(Frame::new(kind, sse(event, &value)));
    }

    fn item(&mut self, event: &str, item: &Value) {
        let value = json!({"output_index": self.output_index, "item": item});
        self.push(FrameKind::Frame, event, value);
    }

    /// The events around a delta name the item and the part they belong to.
    fn part(&mut self, kind: FrameKind, event: &str, item: &Value, index: &str, more: &Value) {
        let mut value = json!({"item_id": item["id"], "output_index": self.output_index});
        value[index] = json!(0);
        for (key, more) in more.as_object().into_iter().flatten() {
            value[key] = more.clone();
        }
        self.push(kind, event, value);
    }

    fn reasoning(&mut self, answer: &Answer) {
        let item = reasoning(answer);
        let mut begun = item.clone();
        begun["summary"] = json!([]);
        begun["encrypted_content"] = Value::Null;
        self.item("response.output_item.added", &begun);
        let mut summary = |kind, event: &str, more: &Value| {
            let event = format!("response.reasoning_summary_{event}");
            self.part(kind, &event, &item, "summary_index", more);
        };
        let empty = json!({"part": {"type": "summary_text", "text": ""}});
        summary(FrameKind::Frame, "part.added", &empty);
        for piece in &answer.reasoning {
            summary(FrameKind::Reasoning, "text.delta", &json!({"delta": piece}));
        }
        let text = answer.reasoning.concat();
        summary(FrameKind::Frame, "text.done", &json!({"text": text}));
        let part = json!({"part": {"type": "summary_text", "text": text}});
        summary(FrameKind::Frame, "part.done", &part);
        self.close(&item);
    }

    fn message(&mut self, answer: &Answer) {
        let item = message(answer);
        let mut begun = item.clone();
        begun["status"] = json!("in_progress");
        begun["content"] = json!([]);
        self.item("response.output_item.added", &begun);
        let name = if answer.stop == Stop::Refusal {
            "refusal"
        } else {
            "output_text"
        };
        let mut empty = item["content"][0].clone();
        empty[text_field(answer)] = json!("");
        let added = json!({"part": empty});
        self.part(
            FrameKind::Frame,
            "response.content_part.added",
            &item,
            "content_index",
            &added,
        );
        for piece in &answer.text {
            let event = format!("response.{name}.delta");
            let delta = json!({"delta": piece, "obfuscation": "k3Qz9"});
            self.part(FrameKind::Text, &event, &item, "content_index", &delta);
        }
        let mut done = json!({});
        done[text_field(answer)] = json!(answer.text.concat());
        let event = format!("response.{name}.done");
        self.part(FrameKind::Frame, &event, &item, "content_index", &done);
        let part = json!({"part": item["content"][0]});
        self.part(
            FrameKind::Frame,
            "response.content_part.done",
            &item,
            "content_index",
            &part,
        );
        self.close(&item);
    }

    fn call(&mut self, item: &Value, call: &Call) {
        let mut begun = item.clone();
        begun["status"] = json!("in_progress");
        begun["arguments"] = json!("");
        self.item("response.output_item.added", &begun);
        let at = json!({"item_id": item["id"], "output_index": self.output_index});
        for fragment in call.fragments() {
            let mut value = at.clone();
            value["delta"] = json!(fragment);
            self.push(
                FrameKind::Call,
                "response.function_call_arguments.delta",
                value,
            );
        }
        let mut value = at;
        value["arguments"] = json!(call.arguments);
        self.push(
            FrameKind::Frame,
            "response.function_call_arguments.done",
            value,
        );
        self.close(item);
    }

    fn close(&mut self, item: &Value) {
        self.item("response.output_item.done", item);
        self.output_index += 1;
    }
}

pub(crate) fn whole(answer: &Answer) -> Value {
    if answer.unfinished {
        return response(answer, "in_progress", &output(answer), &Value::Null);
    }
    end(answer).1
}

/// The terminal event and its response.
fn end(answer: &Answer) -> (&'static str, Value) {
    let reason = match answer.stop {
        Stop::MaxTokens => json!({"reason": "max_output_tokens"}),
        Stop::Refusal if answer.text.is_empty() => json!({"reason": "content_filter"}),
        Stop::EndTurn | Stop::ToolUse | Stop::Refusal => Value::Null,
    };
    let (event, status) = if reason.is_null() {
        ("response.completed", "completed")
    } else {
        ("response.incomplete", "incomplete")
    };
    (event, response(answer, status, &output(answer), &reason))
}

fn response(answer: &Answer, status: &str, output: &Value, incomplete: &Value) -> Value {
    let ended = status != "in_progress";
    json!({
        "id": answer.id, "object": "response", "created_at": CREATED, "status": status, "error": null,
        "incomplete_details": incomplete, "model": answer.model, "output": output, "parallel_tool_calls": true,
        "store": false, "usage": if ended { usage(answer.usage) } else { Value::Null },
    })
}

fn output(answer: &Answer) -> Value {
    let mut items = Vec::new();
    if !answer.reasoning.is_empty() {
        items.push(reasoning(answer));
    }
    if !answer.text.is_empty() {
        items.push(message(answer));
    }
    let calls = answer.calls.iter().enumerate();
    items.extend(calls.map(|(index, call)| function_call(answer, index, call)));
    Value::Array(items)
}

/// The id of a part of the answer: its own prefix, the rest as the answer's.
fn id(answer: &Answer, prefix: &str, index: usize) -> String {
    let rest = answer.id.trim_start_matches("resp_");
    format!("{prefix}_{rest}{index}")
}

/// The signature stands for the encrypted reasoning, which is sent only when asked for.
fn reasoning(answer: &Answer) -> Value {
    let encrypted = answer.include_reasoning.then_some(&answer.signature);
    json!({
        "id": id(answer, "rs", 0), "type": "reasoning", "encrypted_content": encrypted,
        "summary": [{"type": "summary_text", "text": answer.reasoning.concat()}],
    })
}

fn message(answer: &Answer) -> Value {
    let text = answer.text.concat();
    let part = if answer.stop == Stop::Refusal {
        json!({"type": "refusal", "refusal": text})
    } else {
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    };
    json!({
        "id": id(answer, "msg", 0), "type": "message", "role": "assistant", "status": "completed",
        "content": [part],
    })
}

fn text_field(answer: &Answer) -> &'static str {
    if answer.stop == Stop::Refusal {
        "refusal"
    } else {
        "text"
    }
}

fn function_call(answer: &Answer, index: usize, call: &Call) -> Value {
    json!({
        "id": id(answer, "fc", index), "type": "function_call", "status": "completed", "call_id": call.id,
        "name": call.name, "arguments": call.arguments,
    })
}

fn usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    })
}

/// An error in the stream is flat.
pub(crate) fn error_event() -> Bytes {
    let rejection = Rejection::new(500, "Overloaded");
    let error = json!({
        "type": "error", "code": "server_error", "message": rejection.message, "param": null,
        "sequence_number": 999,
    });
    sse("error", &error)
}
