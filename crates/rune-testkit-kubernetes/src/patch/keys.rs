//! How lists are merged: by the keys of their items, as sets, or as one value.

use serde_json::Value;

/// How a list is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListKind {
    /// Items are the same where these fields are; the first decides in a strategic merge.
    Keyed(&'static [&'static str]),
    /// A set of plain values.
    Set,
    /// One value.
    Atomic,
}

/// How the list in a field is merged. The names mean the same in every kind the server knows.
pub(super) fn list_kind(field: &str, items: &[Value]) -> ListKind {
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "secrets" => ListKind::Keyed(&["name"]),
        "ports" if items.iter().any(|item| item.get("containerPort").is_some()) => {
            ListKind::Keyed(&["containerPort", "protocol"])
        }
        // Those of a network policy have no key.
        "ports" if items.iter().all(|item| item.get("name").is_some()) => {
            ListKind::Keyed(&["port", "protocol"])
        }
        "volumeMounts" => ListKind::Keyed(&["mountPath"]),
        "conditions" => ListKind::Keyed(&["type"]),
        "ownerReferences" => ListKind::Keyed(&["uid"]),
        "podIPs" | "hostIPs" => ListKind::Keyed(&["ip"]),
        "finalizers" => ListKind::Set,
        _ => ListKind::Atomic,
    }
}

/// Whether two items have the same key.
pub(super) fn same_key(keys: &[&str], a: &Value, b: &Value) -> bool {
    keys.iter().enumerate().all(|(at, key)| {
        let (a, b) = (a.get(key), b.get(key));
        // What the second part is not said of is its default, which is in only one of them.
        a == b || (at > 0 && (a.is_none() || b.is_none()))
    })
}
