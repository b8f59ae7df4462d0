//! Entries without what differs from run to run.

use rune_store_runtime::EntryBody;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::budget::{BUDGET_WAIT, USAGE_UNKNOWN};
use crate::engine::REMOTE_COST;
use crate::planner::{COMPONENT_WAIT, PROVIDER_WAIT};

/// Notices of what happened around a run and is no part of it.
const CIRCUMSTANCES: [&str; 5] = [
    PROVIDER_WAIT,
    BUDGET_WAIT,
    USAGE_UNKNOWN,
    COMPONENT_WAIT,
    REMOTE_COST,
];

/// The hash of a run: SHA-256, in hexadecimal, over one line of canonical JSON (keys sorted, no spaces) for each entry.
/// Left out are ids and times that are made anew in every run (replica, attempt, audit row, approval and its deadline,
/// the requests of other agents), durations, costs (they follow the price list), and notices of what happened around the run: that it
/// waited for the provider, a budget or its turn, or that what a call used is not known.
#[must_use]
pub fn event_hash<'a>(entries: impl IntoIterator<Item = &'a EntryBody>) -> String {
    let mut hash = Sha256::new();
    for value in entries.into_iter().filter_map(canonical) {
        let mut line = String::new();
        write(&value, &mut line);
        line.push('\n');
        hash.update(line.as_bytes());
    }
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The entry as it is compared; nothing where it is not.
pub(crate) fn canonical(body: &EntryBody) -> Option<Value> {
    let volatile: &[&str] = match body {
        EntryBody::Started { .. } => &["replica_id", "deployment_id", "attempt"],
        EntryBody::ModelReply(_) => &["duration_ms", "cost_micro_usd"],
        EntryBody::ToolResult(_) => &["duration_ms"],
        EntryBody::ModelAsked(_) | EntryBody::ComponentTurn(_) | EntryBody::ToolsListed { .. } => {
            &[]
        }
        EntryBody::PolicyVerdict(_) => &["audit_id"],
        EntryBody::ApprovalAsked(_) => &["approval_id", "deadline"],
        EntryBody::ApprovalGiven(_) => &["approval_id"],
        // Where nobody is called there is none.
        EntryBody::RemoteTask { .. } => return None,
        EntryBody::AgentCalled { .. } | EntryBody::StepStarted { .. } => &["request_id"],
        EntryBody::StepFinished(_) => &["duration_ms"],
        EntryBody::Notice { code, .. } if CIRCUMSTANCES.contains(&code.as_str()) => {
            return None;
        }
        EntryBody::Accepted { .. }
        | EntryBody::Compacted(_)
        | EntryBody::ModelCalled(_)
        | EntryBody::ModelFailed { .. }
        | EntryBody::ToolIntent(_)
        | EntryBody::Notice { .. }
        | EntryBody::CancelRequested { .. } => &[],
        EntryBody::Finished { .. } => &["cost"],
    };
    let mut value = serde_json::to_value(body).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| !volatile.contains(&name.as_str()));
        for name in ["call", "reply"] {
            if let Some(call) = fields.get_mut(name).and_then(Value::as_object_mut) {
                call.retain(|name, _| name != "duration_ms" && name != "cost_micro_usd");
            }
        }
    }
    Some(value)
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(&Value::from(name.as_str()), text);
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, value) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(value, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// JSON Pointer of the first part in which two values differ.
pub(super) fn first_difference(one: &Value, other: &Value) -> String {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys());
            let differing = names
                .filter(|name| one.get(*name) != other.get(*name))
                .min();
            differing.map_or_else(String::new, |name| {
                let none = Value::Null;
                let below = first_difference(
                    one.get(name).unwrap_or(&none),
                    other.get(name).unwrap_or(&none),
                );
                format!("/{}{below}", name.replace('~', "~0").replace('/', "~1"))
            })
        }
        (Value::Array(one), Value::Array(other)) => {
            let index = one.iter().zip(other).position(|(one, other)| one != other);
            let index = index.unwrap_or_else(|| one.len().min(other.len()));
            match (one.get(index), other.get(index)) {
                (Some(one), Some(other)) => format!("/{index}{}", first_difference(one, other)),
                _ => format!("/{index}"),
            }
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let one = json!({"a": 1, "b": [1, {"c/d": 2}]});
        for (other, place) in [
            (json!({"a": 2, "b": []}), "/a"),
            (json!({"a": 1, "b": [1, {"c/d": 3}]}), "/b/1/c~1d"),
            (json!({"a": 1, "b": [1]}), "/b/1"),
            (json!({"a": 1}), "/b"),
            (one.clone(), ""),
        ] {
            assert_eq!(first_difference(&one, &other), place);
        }
    }
}
