use serde_json::{Value, json};

use super::{Frame, data};
use crate::model_server::{
    answer::{Answer, Call},
    check::Rejection,
    frame::FrameKind,
    reply::{Stop, Usage},
};

/// A fixed creation time: nothing may depend on it.
const CREATED: u64 = 1_780_000_000;

pub(crate) fn stream(answer: &Answer) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut push = |kind, delta: Value, finish: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        frames.push(Frame::new(
            kind,
            data(&chunk(answer, &json!([choice]), &Value::Null)),
        ));
    };
    push(
        FrameKind::Frame,
        json!({"role": "assistant", "content": content_start(answer), "refusal": null}),
        None,
    );
    for piece in &answer.reasoning {
        push(
            FrameKind::Reasoning,
            json!({"reasoning_content": piece}),
            None,
        );
    }
    for piece in &answer.text {
        push(FrameKind::Text, json!({"content": piece}), None);
    }
    // One call after the other, as the vendor does: its SDK takes a call for complete when the
    // index changes.
    for (index, call) in answer.calls.iter().enumerate() {
        let function = json!({"name": call.name, "arguments": ""});
        let start =
            json!({"index": index, "id": call.id, "type": "function", "function": function});
        push(FrameKind::Frame, json!({"tool_calls": [start]}), None);
        for fragment in call.fragments() {
            let piece = json!({"index": index, "function": {"arguments": fragment}});
            push(FrameKind::Call, json!({"tool_calls": [piece]}), None);
        }
    }
    push(
        FrameKind::Finish,
        json!({}),
        Some(finish_reason(answer.stop)),
    );
    if answer.include_usage {
        frames.push(Frame::new(
            FrameKind::Finish,
            data(&chunk(answer, &json!([]), &usage(answer.usage))),
        ));
    }
    frames.push(Frame::new(FrameKind::Finish, "data: [DONE]\n\n"));
    frames
}

fn content_start(answer: &Answer) -> Value {
    if answer.text.is_empty() && !answer.calls.is_empty() {
        Value::Null
    } else {
        json!("")
    }
}

fn chunk(answer: &Answer, choices: &Value, usage: &Value) -> Value {
    let mut chunk = json!({
        "id": answer.id, "object": "chat.completion.chunk", "created": CREATED, "model": answer.model,
        "service_tier": "default", "system_fingerprint": "fp_rune", "choices": choices, "obfuscation": "k3Qz9",
    });
    if answer.include_usage {
        chunk["usage"] = usage.clone();
    }
    chunk
}

pub(crate) fn whole(answer: &Answer) -> Value {
    let text = answer.text.concat();
    let content = if text.is_empty() && !answer.calls.is_empty() {
        Value::Null
    } else {
        json!(text)
    };
    let mut message =
        json!({"role": "assistant", "content": content, "refusal": null, "annotations": []});
    if !answer.reasoning.is_empty() {
        message["reasoning_content"] = json!(answer.reasoning.concat());
    }
    if !answer.calls.is_empty() {
        let call = |call: &Call| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            json!({"id": call.id, "type": "function", "function": function})
        };
        message["tool_calls"] = answer.calls.iter().map(call).collect();
    }
    let finish = if answer.unfinished {
        Value::Null
    } else {
        json!(finish_reason(answer.stop))
    };
    json!({
        "id": answer.id, "object": "chat.completion", "created": CREATED, "model": answer.model,
        "service_tier": "default", "system_fingerprint": "fp_rune",
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish}],
        "usage": usage(answer.usage),
    })
}

fn usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write, "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}

fn finish_reason(stop: Stop) -> &'static str {
    match stop {
        Stop::EndTurn => "stop",
        Stop::ToolUse => "tool_calls",
        Stop::MaxTokens => "length",
        Stop::Refusal => "content_filter",
    }
}

pub(crate) fn error(rejection: &Rejection) -> Value {
    let (kind, usual_code) = match rejection.status {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        429 => ("requests", Some("rate_limit_exceeded")),
        500.. => ("server_error", None),
        _ => ("invalid_request_error", None),
    };
    let code = rejection.code.as_deref().or(usual_code);
    json!({"error": {"message": rejection.message, "type": kind, "param": rejection.param, "code": code}})
}
