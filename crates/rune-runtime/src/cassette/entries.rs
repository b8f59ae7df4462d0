//! Entries of a journal as a cassette writes them: without what differs from run to run.

use rune_store_runtime::{ApprovalId, AuditId, DeploymentId, EntryBody, ReplicaId, RequestId};
use serde_json::{Map, Value, json};

use crate::replay::canonical;

/// The entry as it stands in a cassette; nothing where it is left out.
pub(super) fn write(body: &EntryBody) -> Option<Value> {
    let mut value = canonical(body)?;
    if let Some(fields) = value.as_object_mut() {
        match body {
            EntryBody::ModelReply(reply) => {
                fields.remove("prompt");
                // Whether its price was known shows in the run.
                if let Some(cost) = reply.cost_micro_usd {
                    fields.insert("cost_micro_usd".to_owned(), cost.into());
                }
            }
            EntryBody::Compacted(_) | EntryBody::ModelCalled(_) => {
                let cost = body.billed().and_then(|call| call.cost_micro_usd);
                let written = fields.get_mut("call").and_then(Value::as_object_mut);
                if let (Some(cost), Some(call)) = (cost, written) {
                    call.insert("cost_micro_usd".to_owned(), cost.into());
                }
            }
            EntryBody::ToolIntent(_) => {
                fields.remove("idempotency_key");
            }
            _ => {}
        }
    }
    Some(value)
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(value: &Value, request_id: RequestId) -> Result<EntryBody, String> {
    let Some(fields) = value.as_object() else {
        return Err("an entry is a map with a `kind`".to_owned());
    };
    let kind = fields
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut whole = fields.clone();
    for (name, value) in left_out(kind, fields, request_id) {
        whole.entry(name).or_insert(value);
    }
    let body: EntryBody =
        serde_json::from_value(Value::Object(whole)).map_err(|error| error.to_string())?;
    if matches!(body, EntryBody::Accepted { .. }) {
        return Err("the input is no entry of its own: it is under `input`".to_owned());
    }
    let written = serde_json::to_value(&body).unwrap_or_default();
    let unknown = fields.iter().find(|(name, value)| {
        // What is null or empty is not written.
        let nothing = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        written.get(name).is_none() && !nothing
    });
    match unknown {
        Some((name, _)) => Err(format!("an entry of kind `{kind}` has no key `{name}`")),
        None => Ok(body),
    }
}

/// What a cassette leaves out of an entry, with some value.
fn left_out(
    kind: &str,
    fields: &Map<String, Value>,
    request_id: RequestId,
) -> Vec<(&'static str, Value)> {
    match kind {
        "started" => vec![
            ("replica_id", json!(ReplicaId::from_bytes([0; 16]))),
            ("deployment_id", json!(DeploymentId::from_bytes([0; 16]))),
            ("attempt", json!(1)),
        ],
        "model_reply" | "tool_result" | "step_finished" => vec![("duration_ms", json!(0))],
        "tool_intent" => {
            let call_id = fields
                .get("call_id")
                .and_then(Value::as_str)
                .unwrap_or_default();
            vec![("idempotency_key", json!(format!("{request_id}-{call_id}")))]
        }
        "policy_verdict" => vec![("audit_id", json!(AuditId::from_bytes([0; 16])))],
        "approval_asked" | "approval_given" => {
            vec![("approval_id", json!(ApprovalId::from_bytes([0; 16])))]
        }
        _ => Vec::new(),
    }
}
