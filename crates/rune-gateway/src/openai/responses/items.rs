//! The items of a response, and its events about them.

use rune_store_runtime::{ApprovalDecision, ApprovalId, ErrorCode};
use serde_json::{Map, Value, json};

use crate::narration::Cut;

/// What the agent's tools are the tools of, where they are shown.
const SERVER_LABEL: &str = "rune";

/// An event with its name.
pub(super) type Named = (&'static str, Map<String, Value>);

pub(super) fn named(name: &'static str, fields: Value) -> Named {
    match fields {
        Value::Object(fields) => (name, fields),
        _ => (name, Map::new()),
    }
}

pub(super) fn added(index: usize, item: &Value) -> Named {
    named(
        "response.output_item.added",
        json!({"output_index": index, "item": item}),
    )
}

pub(super) fn done(index: usize, item: &Value) -> Named {
    named(
        "response.output_item.done",
        json!({"output_index": index, "item": item}),
    )
}

pub(super) fn message(id: &str, status: &str, content: &[Value]) -> Value {
    json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": content})
}

pub(super) fn output_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

pub(super) fn question(id: ApprovalId, tool: &str, input: &Value) -> Value {
    json!({
        "id": id, "type": "mcp_approval_request", "server_label": SERVER_LABEL, "name": tool,
        "arguments": input.to_string(),
    })
}

/// A tool that is being called.
pub(super) fn call(id: &str, name: &str) -> Value {
    json!({
        "id": id, "type": "mcp_call", "server_label": SERVER_LABEL, "name": name,
        "arguments": "", "status": "in_progress",
    })
}

/// The call that a question was about, once that is answered.
pub(super) fn decided(
    id: &str,
    question: &Value,
    approval: ApprovalId,
    decision: ApprovalDecision,
) -> Value {
    let mut call = json!({
        "id": id, "type": "mcp_call", "server_label": SERVER_LABEL, "name": question["name"],
        "arguments": question["arguments"], "approval_request_id": approval,
        "status": "in_progress",
    });
    if decision == ApprovalDecision::Deny {
        call["status"] = json!("failed");
        call["error"] = call_error("the call was denied");
    }
    call
}

pub(super) fn call_error(message: &str) -> Value {
    let content = json!([{"type": "text", "text": message}]);
    json!({"type": "mcp_tool_execution_error", "content": content})
}

/// Why an answer is incomplete, in the words of the API.
pub(super) const fn cut_reason(cut: Cut) -> &'static str {
    match cut {
        Cut::Length => "max_output_tokens",
        Cut::Refused => "content_filter",
    }
}

/// The code of a failure, of those that the API has.
pub(super) const fn error_code(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::LimitExceeded => "rate_limit_exceeded",
        ErrorCode::InvalidInput => "invalid_prompt",
        _ => "server_error",
    }
}
