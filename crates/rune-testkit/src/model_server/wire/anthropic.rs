use serde_json::{Value, json};

use super::{Frame, sse};
use crate::model_server::{
    answer::{Answer, Call},
    check::Rejection,
    frame::FrameKind,
    reply::{Stop, Usage},
};

pub(crate) fn stream(answer: &Answer) -> Vec<Frame> {
    let mut events = Events::default();
    events.push(
        FrameKind::Frame,
        "message_start",
        json!({"message": message(answer, &[], None, &usage(answer.usage, 1))}),
    );
    events.push(FrameKind::Frame, "ping", json!({}));
    if !answer.reasoning.is_empty() {
        events.open(json!({"type": "thinking", "thinking": "", "signature": ""}));
        for piece in &answer.reasoning {
            events.delta(
                FrameKind::Reasoning,
                json!({"type": "thinking_delta", "thinking": piece}),
            );
        }
        events.delta(
            FrameKind::Frame,
            json!({"type": "signature_delta", "signature": answer.signature}),
        );
        events.close();
    }
    if !answer.text.is_empty() {
        events.open(json!({"type": "text", "text": ""}));
        for piece in &answer.text {
            events.delta(
                FrameKind::Text,
                json!({"type": "text_delta", "text": piece}),
            );
        }
        events.close();
    }
    for call in &answer.calls {
        events.open(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}}));
        events.delta(
            FrameKind::Frame,
            json!({"type": "input_json_delta", "partial_json": ""}),
        );
        for fragment in call.fragments() {
            events.delta(
                FrameKind::Call,
                json!({"type": "input_json_delta", "partial_json": fragment}),
            );
        }
        events.close();
    }
    events.push(
        FrameKind::Finish,
        "message_delta",
        json!({
            "delta": {
                "stop_reason": stop_reason(answer.stop), "stop_sequence": null,
                "stop_details": stop_details(answer.stop), "container": null,
            },
            "usage": usage(answer.usage, answer.usage.output),
        }),
    );
    events.push(FrameKind::Finish, "message_stop", json!({}));
    events.frames
}

#[derive(Default)]
struct Events {
    frames: Vec<Frame>,
    block: usize,
}

impl Events {
    fn push(&mut self, kind: FrameKind, event: &str, mut value: Value) {
        value["type"] = json!(event);
        self.frames.push(Frame::new(kind, sse(event, &value)));
    }

    fn open(&mut self, block: Value) {
        let mut value = json!({"index": self.block});
        value["content_block"] = block;
        self.push(FrameKind::Frame, "content_block_start", value);
    }

    fn delta(&mut self, kind: FrameKind, delta: Value) {
        let mut value = json!({"index": self.block});
        value["delta"] = delta;
        self.push(kind, "content_block_delta", value);
    }

    fn close(&mut self) {
        self.push(
            FrameKind::Frame,
            "content_block_stop",
            json!({"index": self.block}),
        );
        self.block += 1;
    }
}

pub(crate) fn whole(answer: &Answer) -> Value {
    let mut content = Vec::new();
    if !answer.reasoning.is_empty() {
        let thinking = answer.reasoning.concat();
        content
            .push(json!({"type": "thinking", "thinking": thinking, "signature": answer.signature}));
    }
    if !answer.text.is_empty() {
        content.push(json!({"type": "text", "text": answer.text.concat()}));
    }
    let tool_use = |call: &Call| {
        let input = if call.malformed {
            json!(call.arguments)
        } else {
            call.input.clone()
        };
        json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
    };
    content.extend(answer.calls.iter().map(tool_use));
    let stop = (!answer.unfinished).then(|| stop_reason(answer.stop));
    message(
        answer,
        &content,
        stop,
        &usage(answer.usage, answer.usage.output),
    )
}

fn message(answer: &Answer, content: &[Value], stop_reason: Option<&str>, usage: &Value) -> Value {
    json!({
        "id": answer.id, "type": "message", "role": "assistant", "model": answer.model, "content": content,
        "stop_reason": stop_reason, "stop_sequence": null,
        "stop_details": stop_reason.map_or(Value::Null, |_| stop_details(answer.stop)),
        "container": null, "usage": usage,
    })
}

/// The vendor's input does not count what comes from or goes to the cache.
fn usage(usage: Usage, output: u64) -> Value {
    json!({
        "input_tokens": usage.input.saturating_sub(usage.cached + usage.cache_write),
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": usage.cache_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning.min(output)},
        "service_tier": "standard",
    })
}

fn stop_reason(stop: Stop) -> &'static str {
    match stop {
        Stop::EndTurn => "end_turn",
        Stop::ToolUse => "tool_use",
        Stop::MaxTokens => "max_tokens",
        Stop::Refusal => "refusal",
    }
}

fn stop_details(stop: Stop) -> Value {
    match stop {
        Stop::Refusal => json!({"type": "refusal", "category": null, "explanation": null}),
        Stop::EndTurn | Stop::ToolUse | Stop::MaxTokens => Value::Null,
    }
}

pub(crate) fn error(rejection: &Rejection) -> Value {
    let kind = match rejection.status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        409 => "conflict_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let mut error = json!({"type": kind, "message": rejection.message});
    if let Some(code) = &rejection.code {
        error["details"] = json!({"error_code": code});
    }
    json!({"type": "error", "error": error, "request_id": rejection.request_id})
}
