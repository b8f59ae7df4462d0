//! Events about pods.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::object;
use crate::resource::named;
use crate::write::{self, WriteOptions};

/// Notes an event about a pod. `kind` is `Normal` or `Warning`.
pub(super) fn note(cluster: &Cluster, pod: &Value, kind: &str, reason: &str, message: &str) {
    let Some(events) = named("events") else {
        return;
    };
    let (name, namespace) = (object::name(pod), object::namespace(pod));
    let component = match reason {
        "FailedScheduling" | "Scheduled" => "default-scheduler",
        _ => "kubelet",
    };
    let (now, id) = (object::now(), Uuid::new_v4().simple());
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("{name}.{id}")},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "name": name, "namespace": namespace, "uid": object::uid(pod),
        },
        "type": kind, "reason": reason, "message": message, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now, "source": {"component": component},
    });
    // There may be no such namespace any more, and then nobody to read it.
    let options = WriteOptions::default();
    let _ = write::create(&mut cluster.store(), events, namespace, event, &options);
}
