//! Objects as rows of a table, which is how `kubectl get` asks for them.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object::{self, list, text};
use crate::resource::Resource;

/// Which object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "None" => Self::None,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// A table of these objects.
pub(crate) fn table<'a>(
    resource: &Resource,
    objects: impl Iterator<Item = &'a Value>,
    metadata: &Value,
    include: Include,
) -> Value {
    let columns: Vec<Value> = columns(resource)
        .iter()
        .map(|(name, priority)| {
            json!({"name": name, "type": "string", "format": "", "description": "", "priority": priority})
        })
        .collect();
    let rows: Vec<Value> = objects
        .map(|object| {
            let shown = match include {
                Include::None => Value::Null,
                Include::Object => object.clone(),
                Include::Metadata => json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": object.get("metadata"),
                }),
            };
            json!({"cells": cells(resource, object), "object": shown})
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// The columns of a kind and from which width on they are shown.
fn columns(resource: &Resource) -> &'static [(&'static str, u8)] {
    match resource.plural {
        "pods" => &[
            ("Name", 0),
            ("Ready", 0),
            ("Status", 0),
            ("Restarts", 0),
            ("Age", 0),
            ("IP", 1),
            ("Node", 1),
        ],
        "namespaces" | "nodes" => &[("Name", 0), ("Status", 0), ("Age", 0)],
        "persistentvolumeclaims" => &[
            ("Name", 0),
            ("Status", 0),
            ("Volume", 0),
            ("Capacity", 0),
            ("StorageClass", 0),
            ("Age", 0),
        ],
        "persistentvolumes" => &[
            ("Name", 0),
            ("Capacity", 0),
            ("Status", 0),
            ("Claim", 0),
            ("StorageClass", 0),
            ("Age", 0),
        ],
        "endpoints" => &[("Name", 0), ("Endpoints", 0), ("Age", 0)],
        "services" => &[
            ("Name", 0),
            ("Type", 0),
            ("Cluster-IP", 0),
            ("Port(s)", 0),
            ("Age", 0),
        ],
        "secrets" => &[("Name", 0), ("Type", 0), ("Data", 0), ("Age", 0)],
        "configmaps" => &[("Name", 0), ("Data", 0), ("Age", 0)],
        "statefulsets" | "deployments" => &[("Name", 0), ("Ready", 0), ("Age", 0)],
        "events" => &[
            ("Last Seen", 0),
            ("Type", 0),
            ("Reason", 0),
            ("Object", 0),
            ("Message", 0),
        ],
        "leases" => &[("Name", 0), ("Holder", 0), ("Age", 0)],
        _ => &[("Name", 0), ("Age", 0)],
    }
}

fn cells(resource: &Resource, object: &Value) -> Vec<Value> {
    let name = || json!(object::name(object));
    let age = || json!(age(text(object, "/metadata/creationTimestamp")));
    let at = |pointer: &str| json!(text(object, pointer));
    let count = |field: &str| {
        let map = object.get(field).and_then(Value::as_object);
        json!(map.map_or(0, serde_json::Map::len))
    };
    match resource.plural {
        "pods" => {
            let statuses = list(object, "/status/containerStatuses");
            let is_ready = |s: &&Value| s.get("ready") == Some(&Value::Bool(true));
            let ready = statuses.iter().filter(is_ready).count();
            let all = list(object, "/spec/containers").len();
            let restarts: u64 = statuses
                .iter()
                .filter_map(|s| s.get("restartCount")?.as_u64())
                .sum();
            vec![
                name(),
                json!(format!("{ready}/{all}")),
                json!(pod_status(object)),
                json!(restarts.to_string()),
                age(),
                at("/status/podIP"),
                at("/spec/nodeName"),
            ]
        }
        "namespaces" => vec![name(), at("/status/phase"), age()],
        "persistentvolumeclaims" => vec![
            name(),
            at("/status/phase"),
            at("/spec/volumeName"),
            at("/status/capacity/storage"),
            at("/spec/storageClassName"),
            age(),
        ],
        "persistentvolumes" => {
            let claim = text(object, "/spec/claimRef/namespace");
            let claim = format!("{claim}/{}", text(object, "/spec/claimRef/name"));
            vec![
                name(),
                at("/spec/capacity/storage"),
                at("/status/phase"),
                json!(claim),
                at("/spec/storageClassName"),
                age(),
            ]
        }
        "endpoints" => vec![name(), json!(endpoints(object)), age()],
        "nodes" => vec![name(), json!("Ready"), age()],
        "services" => {
            let ports: Vec<String> = list(object, "/spec/ports")
                .iter()
                .map(|port| format!("{}/{}", port["port"], text(port, "/protocol")))
                .collect();
            let address = at("/spec/clusterIP");
            vec![
                name(),
                at("/spec/type"),
                address,
                json!(ports.join(",")),
                age(),
            ]
        }
        "secrets" => vec![name(), at("/type"), count("data"), age()],
        "configmaps" => vec![name(), count("data"), age()],
        "statefulsets" | "deployments" => {
            let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64);
            let ready = number("/status/readyReplicas").unwrap_or(0);
            let wanted = number("/spec/replicas").unwrap_or(0);
            vec![name(), json!(format!("{ready}/{wanted}")), age()]
        }
        "events" => {
            let kind = text(object, "/involvedObject/kind").to_lowercase();
            let about = format!("{kind}/{}", text(object, "/involvedObject/name"));
            let seen = self::age(text(object, "/lastTimestamp"));
            vec![
                json!(seen),
                at("/type"),
                at("/reason"),
                json!(about),
                at("/message"),
            ]
        }
        "leases" => vec![name(), at("/spec/holderIdentity"), age()],
        _ => vec![name(), age()],
    }
}

/// The addresses with their ports that are ready.
fn endpoints(object: &Value) -> String {
    let mut shown = Vec::new();
    for subset in list(object, "/subsets") {
        for address in list(subset, "/addresses") {
            let ports = list(subset, "/ports").iter();
            shown.extend(ports.map(|port| format!("{}:{}", text(address, "/ip"), port["port"])));
        }
    }
    match shown.is_empty() {
        true => "<none>".to_owned(),
        false => shown.join(","),
    }
}

/// What a person reads of a pod: why it waits, or how it ended, else its phase.
fn pod_status(pod: &Value) -> String {
    if object::is_deleting(pod) {
        return "Terminating".to_owned();
    }
    let of = |statuses: &str, of: &str| {
        list(pod, statuses)
            .iter()
            .map(|s| text(s, of).to_owned())
            .find(|reason| !reason.is_empty())
    };
    let waits = of("/status/containerStatuses", "/state/waiting/reason");
    let ended = of("/status/containerStatuses", "/state/terminated/reason");
    waits
        .or(ended)
        .unwrap_or_else(|| text(pod, "/status/phase").to_owned())
}

/// How long ago a time was, as `kubectl` writes it.
fn age(time: &str) -> String {
    let Ok(time) = time.parse::<Timestamp>() else {
        return "<unknown>".to_owned();
    };
    let seconds = Timestamp::now().duration_since(time).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
