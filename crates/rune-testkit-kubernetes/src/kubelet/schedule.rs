//! The scheduler: gives a pod a node, or says why not.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{NodeConfig, status};
use crate::cluster::Cluster;
use crate::events::{self, Level};
use crate::object::{self, list, text};
use crate::resource::{Resource, named};
use crate::store::{Key, Store};
use crate::validate::quantity;

/// Looks at every pod that has no node.
pub(super) fn place(cluster: &Cluster, node: &NodeConfig) {
    let Some(pods) = named("pods") else { return };
    let waiting: Vec<(Key, Arc<Value>)> = cluster
        .store()
        .list(pods, None)
        .filter(|(_, pod)| text(pod, "/spec/nodeName").is_empty() && !object::is_deleting(pod))
        .map(|(key, pod)| (key.clone(), Arc::clone(pod)))
        .collect();
    for (key, pod) in waiting {
        let refusal = refusal(&cluster.store(), pods, &pod, node);
        let mut placed = Value::clone(&pod);
        let condition = match &refusal {
            None => {
                object::set(&mut placed, &["spec", "nodeName"], node.name.as_str());
                json!({"type": "PodScheduled", "status": "True"})
            }
            Some(why) => json!({
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
            }),
        };
        status::set_condition(&mut placed, condition);
        if placed == *pod {
            continue;
        }
        let (level, reason, message) = match refusal {
            None => {
                let message = format!("Successfully assigned to {}", node.name);
                (Level::Normal, "Scheduled", message)
            }
            Some(why) => (Level::Warning, "FailedScheduling", why),
        };
        let mut store = cluster.store();
        store.put(key, placed);
        events::note(
            &mut store,
            &pod,
            "default-scheduler",
            level,
            reason,
            &message,
        );
    }
}

/// Why a pod cannot be on the node.
fn refusal(store: &Store, pods: &Resource, pod: &Value, node: &NodeConfig) -> Option<String> {
    let wanted = pod.pointer("/spec/nodeSelector").and_then(Value::as_object);
    let has = |key: &str, value: &Value| {
        let label = node.labels.iter().find(|(is, _)| is == key);
        label.is_some_and(|(_, is)| value == is)
    };
    if !wanted
        .into_iter()
        .flatten()
        .all(|(key, value)| has(key, value))
    {
        let why = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
        return Some(why.to_owned());
    }
    // A node that has volumes of claims itself waits for nobody to bind them.
    if node.volumes.is_none()
        && let Some(why) = unbound(store, pod)
    {
        return Some(why);
    }
    let room = [
        ("cpu", u128::from(node.cpus) * 1000),
        ("memory", u128::from(node.memory_mib) * (1000 << 20)),
    ];
    for (what, all) in room {
        let taken: u128 = store
            .list(pods, None)
            .filter(|(_, other)| text(other, "/spec/nodeName") == node.name)
            .map(|(_, other)| requests(other, what))
            .sum();
        if taken + requests(pod, what) > all {
            return Some(format!("0/1 nodes are available: 1 Insufficient {what}."));
        }
    }
    None
}

/// Which of the pod's volumes is not there yet.
fn unbound(store: &Store, pod: &Value) -> Option<String> {
    let claims = named("persistentvolumeclaims")?;
    let volumes = list(pod, "/spec/volumes").iter();
    let names = volumes.map(|volume| text(volume, "/persistentVolumeClaim/claimName"));
    names.filter(|name| !name.is_empty()).find_map(|name| {
        let key = Key::new(claims, object::namespace(pod), name);
        let why = match store.get(&key) {
            Some(claim) if text(claim, "/status/phase") == "Bound" => return None,
            Some(_) => "pod has unbound immediate PersistentVolumeClaims.".to_owned(),
            None => format!("persistentvolumeclaim \"{name}\" not found."),
        };
        Some(format!("0/1 nodes are available: {why}"))
    })
}

fn requests(pod: &Value, what: &str) -> u128 {
    list(pod, "/spec/containers")
        .iter()
        .filter_map(|c| quantity(text(c, &format!("/resources/requests/{what}"))))
        .sum()
}
