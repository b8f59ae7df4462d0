use bytes::Bytes;
use serde_json::{Value, json};

use super::Frame;
use crate::model_server::{
    answer::{Answer, Call},
    check::Rejection,
    frame::FrameKind,
    issuer::sign,
    reply::{Stop, Usage},
};

/// An event; this vendor ends lines with CR LF.
pub(crate) fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\r\n\r\n"))
}

pub(crate) fn stream(answer: &Answer) -> Vec<Frame> {
    let frame = |kind, part: Value| Frame::new(kind, data(&chunk(answer, &json!([part]), None)));
    let mut frames = Vec::new();
    let thought = |piece: &String| {
        frame(
            FrameKind::Reasoning,
            json!({"text": piece, "thought": true}),
        )
    };
    frames.extend(answer.reasoning.iter().map(thought));
    frames.extend(
        answer
            .text
            .iter()
            .map(|piece| frame(FrameKind::Text, json!({"text": piece}))),
    );
    frames.extend(calls(answer).map(|call| frame(FrameKind::Call, part(call))));
    let finish = chunk(
        answer,
        &json!([last_part(answer)]),
        Some(finish_reason(answer)),
    );
    frames.push(Frame::new(FrameKind::Finish, data(&finish)));
    frames
}

pub(crate) fn whole(answer: &Answer) -> Value {
    let mut parts = Vec::new();
    if !answer.reasoning.is_empty() {
        parts.push(json!({"text": answer.reasoning.concat(), "thought": true}));
    }
    if !answer.text.is_empty() {
        parts.push(json!({"text": answer.text.concat()}));
    }
    parts.extend(
        answer
            .file
            .as_ref()
            .map(|file| json!({"inlineData": {"mimeType": file.mime, "data": file.data}})),
    );
    parts.extend(calls(answer).map(part));
    if parts.is_empty() || signs_last_part(answer) {
        parts.push(last_part(answer));
    }
    let finish = (!answer.unfinished).then(|| finish_reason(answer));
    chunk(answer, &Value::Array(parts), finish)
}

/// Broken arguments cannot be said in this protocol: such a call is left out.
fn calls(answer: &Answer) -> impl Iterator<Item = &Call> {
    answer.calls.iter().filter(|call| !call.malformed)
}

fn part(call: &Call) -> Value {
    let mut function_call = json!({"name": call.name, "args": call.input});
    if let Some(id) = &call.id {
        function_call["id"] = json!(id);
    }
    let mut part = json!({"functionCall": function_call});
    if let Some(signature) = &call.signature {
        part["thoughtSignature"] = json!(signature);
    }
    part
}

/// A thoughtful text answer is signed on a last part without text.
fn signs_last_part(answer: &Answer) -> bool {
    answer.calls.is_empty() && !answer.reasoning.is_empty()
}

fn last_part(answer: &Answer) -> Value {
    let mut part = json!({"text": ""});
    if signs_last_part(answer) {
        part["thoughtSignature"] = json!(sign(""));
    }
    part
}

fn chunk(answer: &Answer, parts: &Value, finish: Option<&str>) -> Value {
    let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
    if let Some(finish) = finish {
        candidate["finishReason"] = json!(finish);
    }
    json!({
        "candidates": [candidate],
        "usageMetadata": usage(answer.usage),
        "modelVersion": answer.model,
        "responseId": answer.id,
    })
}

/// The vendor's candidates do not count the thoughts.
fn usage(usage: Usage) -> Value {
    let mut metadata = json!({
        "promptTokenCount": usage.input,
        "candidatesTokenCount": usage.output.saturating_sub(usage.reasoning),
        "totalTokenCount": usage.input + usage.output,
    });
    if usage.cached > 0 {
        metadata["cachedContentTokenCount"] = json!(usage.cached);
    }
    if usage.reasoning > 0 {
        metadata["thoughtsTokenCount"] = json!(usage.reasoning);
    }
    metadata
}

fn finish_reason(answer: &Answer) -> &'static str {
    if answer.calls.iter().any(|call| call.malformed) {
        return "MALFORMED_FUNCTION_CALL";
    }
    match answer.stop {
        Stop::EndTurn | Stop::ToolUse => "STOP",
        Stop::MaxTokens => "MAX_TOKENS",
        Stop::Refusal => "SAFETY",
    }
}

pub(crate) fn error(rejection: &Rejection) -> Value {
    let status = match rejection.status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        503 | 529 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        500.. => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    };
    let mut error =
        json!({"code": rejection.status, "message": rejection.message, "status": status});
    if let Some(seconds) = rejection.retry_seconds {
        let kind = "type.googleapis.com/google.rpc.RetryInfo";
        error["details"] = json!([{"@type": kind, "retryDelay": format!("{seconds}s")}]);
    }
    json!({"error": error})
}
