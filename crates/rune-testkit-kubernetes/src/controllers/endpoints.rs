//! Endpoints: which pods are behind a service.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::options;
use crate::garbage::{self, DeleteOptions};
use crate::object::{self, list, text};
use crate::resource::named;
use crate::store::{Key, Store};
use crate::write;

/// Label of endpoints that are made here.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

/// Writes the endpoints of every service with a selector, and removes those of services that are gone.
pub(super) fn reconcile(store: &mut Store) {
    let (Some(services), Some(pods), Some(endpoints)) =
        (named("services"), named("pods"), named("endpoints"))
    else {
        return;
    };
    let all: Vec<Arc<Value>> = store
        .list(services, None)
        .filter(|(_, service)| selector(service).is_some())
        .map(|(_, service)| Arc::clone(service))
        .collect();
    for service in &all {
        let namespace = object::namespace(service);
        let subsets = subsets(
            service,
            store.list(pods, Some(namespace)).map(|(_, pod)| &**pod),
        );
        let key = Key::new(endpoints, namespace, object::name(service));
        let before = store.get(&key).map(|found| Value::clone(found));
        let mut made = before.clone().unwrap_or_else(|| {
            json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": key.name, "namespace": namespace},
            })
        });
        let mut labels = service.pointer("/metadata/labels").cloned();
        object::set(
            labels.get_or_insert(json!({})),
            &[MANAGED_BY],
            "endpoint-controller",
        );
        object::set(
            &mut made,
            &["metadata", "labels"],
            labels.unwrap_or_default(),
        );
        object::remove(&mut made, &["subsets"]);
        if !subsets.is_empty() {
            object::set(&mut made, &["subsets"], subsets);
        }
        // The namespace may be ending, and then nobody asks for them.
        let _ = match before {
            None => write::create(store, endpoints, namespace, made, &options()),
            Some(_) => write::update(store, endpoints, &key, made, "", &options()),
        };
    }
    let is_left = |key: &Key, found: &Value| {
        let of = |service: &Arc<Value>| {
            object::name(service) == key.name && object::namespace(service) == key.namespace
        };
        found
            .pointer("/metadata/labels")
            .is_some_and(|labels| labels.get(MANAGED_BY).is_some())
            && !all.iter().any(of)
    };
    let left: Vec<Key> = store
        .list(endpoints, None)
        .filter(|(key, found)| is_left(key, found))
        .map(|(key, _)| key.clone())
        .collect();
    for key in left {
        // It was there a moment ago, and nobody else writes now.
        let _ = garbage::delete(store, endpoints, &key, &DeleteOptions::default());
    }
}

fn selector(service: &Value) -> Option<&serde_json::Map<String, Value>> {
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    selector.filter(|selector| !selector.is_empty())
}

/// The addresses of the pods that a service selects, those with the same ports together.
fn subsets<'a>(service: &Value, pods: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let is_selected = |pod: &Value| {
        let has = |(key, value): (&String, &Value)| {
            let labels = pod.pointer("/metadata/labels");
            labels.and_then(|labels| labels.get(key)) == Some(value)
        };
        selector(service).is_some_and(|selector| selector.iter().all(has))
    };
    let takes_all = service.pointer("/spec/publishNotReadyAddresses") == Some(&Value::Bool(true));
    let mut by_ports: BTreeMap<String, (Value, Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for pod in pods.filter(|pod| is_selected(pod) && is_there(pod)) {
        let ports = ports(service, pod);
        let (_, ready, others) = by_ports
            .entry(ports.to_string())
            .or_insert_with(|| (ports, Vec::new(), Vec::new()));
        let is_ready = |c: &Value| text(c, "/type") == "Ready" && text(c, "/status") == "True";
        let is_taken = takes_all || list(pod, "/status/conditions").iter().any(is_ready);
        let place = if is_taken { ready } else { others };
        place.push(address(service, pod));
    }
    let subset = |(ports, ready, others): (Value, Vec<Value>, Vec<Value>)| {
        let mut subset = json!({"ports": ports});
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", others)] {
            if !addresses.is_empty() {
                object::set(&mut subset, &[field], addresses);
            }
        }
        subset
    };
    by_ports.into_values().map(subset).collect()
}

/// Whether a pod has an address and will keep it.
fn is_there(pod: &Value) -> bool {
    let has_ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    !has_ended && !object::is_deleting(pod) && !text(pod, "/status/podIP").is_empty()
}

fn ports(service: &Value, pod: &Value) -> Value {
    let named = |name: &str| {
        let containers = list(pod, "/spec/containers").iter();
        let mut ports = containers.flat_map(|container| list(container, "/ports"));
        let port = ports.find(|port| text(port, "/name") == name)?;
        port.get("containerPort").cloned()
    };
    let one = |port: &Value| {
        let number = match port.get("targetPort") {
            Some(Value::String(name)) => named(name)?,
            number => number.cloned()?,
        };
        let mut made = json!({"port": number, "protocol": port.get("protocol")});
        if let Some(name) = port.get("name") {
            object::set(&mut made, &["name"], name.clone());
        }
        Some(made)
    };
    list(service, "/spec/ports")
        .iter()
        .filter_map(one)
        .collect()
}

fn address(service: &Value, pod: &Value) -> Value {
    let mut address = json!({
        "ip": text(pod, "/status/podIP"), "nodeName": text(pod, "/spec/nodeName"),
        "targetRef": {
            "kind": "Pod", "name": object::name(pod), "namespace": object::namespace(pod), "uid": object::uid(pod),
        },
    });
    let host = text(pod, "/spec/hostname");
    if !host.is_empty() && text(pod, "/spec/subdomain") == object::name(service) {
        object::set(&mut address, &["hostname"], host);
    }
    address
}
