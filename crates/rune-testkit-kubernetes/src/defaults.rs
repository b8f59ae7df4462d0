//! What the server fills in where an object says nothing.

use serde_json::{Value, json};

use crate::object::{self, list, set_default, text};
use crate::resource::Resource;

/// The class of volumes of claims that name none.
pub(crate) const STORAGE_CLASS: &str = "standard";

/// Fills in defaults of a new or changed object.
pub(crate) fn apply(resource: &Resource, object: &mut Value) {
    match resource.plural {
        "pods" => {
            pod_spec(object, &["spec"]);
            set_default(object, &["status", "phase"], "Pending");
            let class = qos_class(object);
            set_default(object, &["status", "qosClass"], class);
        }
        "statefulsets" => {
            pod_spec(object, &["spec", "template", "spec"]);
            set_default(object, &["spec", "replicas"], 1);
            set_default(object, &["spec", "podManagementPolicy"], "OrderedReady");
            set_default(object, &["spec", "revisionHistoryLimit"], 10);
            let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
            set_default(object, &["spec", "updateStrategy"], rolling);
            let policy = ["spec", "persistentVolumeClaimRetentionPolicy"];
            let kept = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
            set_default(object, &policy, kept);
            if let Some(spec) = object.get_mut("spec") {
                items(spec, "volumeClaimTemplates").for_each(claim);
            }
            set_default(object, &["status", "replicas"], 0);
        }
        "deployments" => {
            pod_spec(object, &["spec", "template", "spec"]);
            set_default(object, &["spec", "replicas"], 1);
        }
        "namespaces" => {
            set_default(object, &["spec", "finalizers"], json!(["kubernetes"]));
            set_default(object, &["status", "phase"], "Active");
            let name = object::name(object).to_owned();
            set_default(
                object,
                &["metadata", "labels", "kubernetes.io/metadata.name"],
                name,
            );
        }
        "secrets" => {
            set_default(object, &["type"], "Opaque");
            secret(object);
        }
        "services" => service(object),
        "persistentvolumeclaims" => {
            claim(object);
            set_default(object, &["spec", "storageClassName"], STORAGE_CLASS);
        }
        "persistentvolumes" => {
            set_default(object, &["spec", "volumeMode"], "Filesystem");
            set_default(object, &["spec", "persistentVolumeReclaimPolicy"], "Retain");
            set_default(object, &["status", "phase"], "Pending");
        }
        "roles" | "clusterroles" => set_default(object, &["rules"], json!([])),
        "rolebindings" | "clusterrolebindings" => role_binding(object),
        _ => {}
    }
}

fn pod_spec(object: &mut Value, path: &[&str]) {
    let mut spec = Value::Object(std::mem::take(object::map(object, path)));
    set_default(&mut spec, &["restartPolicy"], "Always");
    set_default(&mut spec, &["terminationGracePeriodSeconds"], 30);
    set_default(&mut spec, &["dnsPolicy"], "ClusterFirst");
    set_default(&mut spec, &["schedulerName"], "default-scheduler");
    set_default(&mut spec, &["securityContext"], json!({}));
    set_default(&mut spec, &["serviceAccountName"], "default");
    for kind in ["containers", "initContainers"] {
        for made in items(&mut spec, kind) {
            container(made);
        }
    }
    *object::map(object, path) = std::mem::take(object::map(&mut spec, &[]));
}

fn claim(claim: &mut Value) {
    set_default(claim, &["spec", "volumeMode"], "Filesystem");
    set_default(claim, &["status", "phase"], "Pending");
}

fn items<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = object.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

fn container(container: &mut Value) {
    let image = text(container, "/image");
    let tagged = image.rsplit('/').next().unwrap_or(image);
    let latest = !tagged.contains([':', '@']) || tagged.ends_with(":latest");
    let pull = if latest { "Always" } else { "IfNotPresent" };
    set_default(container, &["imagePullPolicy"], pull);
    set_default(container, &["resources"], json!({}));
    set_default(
        container,
        &["terminationMessagePath"],
        "/dev/termination-log",
    );
    set_default(container, &["terminationMessagePolicy"], "File");
    for port in items(container, "ports") {
        set_default(port, &["protocol"], "TCP");
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            set_default(probe, &["periodSeconds"], 10);
            set_default(probe, &["timeoutSeconds"], 1);
            set_default(probe, &["successThreshold"], 1);
            set_default(probe, &["failureThreshold"], 3);
            if let Some(get) = probe.get_mut("httpGet") {
                set_default(get, &["scheme"], "HTTP");
                set_default(get, &["path"], "/");
            }
        }
    }
    for name in ["limits", "requests"] {
        if container.pointer(&format!("/resources/{name}")).is_none() {
            continue;
        }
        // What is limited and not asked for is asked for at its limit.
        let limits = container.pointer("/resources/limits").cloned();
        if let Some(Value::Object(limits)) = limits {
            for (what, value) in limits {
                set_default(container, &["resources", "requests", &what], value);
            }
        }
    }
}

fn qos_class(pod: &Value) -> &'static str {
    let containers = list(pod, "/spec/containers");
    let of = |what: &'static str| {
        let containers = containers.iter();
        containers.map(move |c| c.pointer(what).cloned().unwrap_or_default())
    };
    let has = |value: &Value| value.as_object().is_some_and(|map| !map.is_empty());
    if !of("/resources/requests").any(|r| has(&r)) && !of("/resources/limits").any(|r| has(&r)) {
        return "BestEffort";
    }
    let both = |value: &Value| value.get("cpu").is_some() && value.get("memory").is_some();
    let equal = of("/resources/requests").eq(of("/resources/limits"));
    if equal && of("/resources/limits").all(|limits| both(&limits)) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Texts of a secret become its data.
fn secret(object: &mut Value) {
    use base64::Engine;
    let Some(Value::Object(texts)) = object::remove(object, &["stringData"]) else {
        return;
    };
    for (key, value) in texts {
        let bytes = value.as_str().unwrap_or("").as_bytes();
        let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
        object::set(object, &["data", &key], encoded);
    }
}

fn service(object: &mut Value) {
    set_default(object, &["spec", "type"], "ClusterIP");
    set_default(object, &["spec", "sessionAffinity"], "None");
    set_default(object, &["spec", "internalTrafficPolicy"], "Cluster");
    if text(object, "/spec/clusterIP").is_empty() {
        // One per service; nothing routes to it.
        let uid = object::uid(object).bytes();
        let low = uid.fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        object::set(object, &["spec", "clusterIP"], format!("10.96.0.{low}"));
    }
    let address = text(object, "/spec/clusterIP").to_owned();
    set_default(object, &["spec", "clusterIPs"], json!([address]));
    if let Some(spec) = object.get_mut("spec") {
        for port in items(spec, "ports") {
            set_default(port, &["protocol"], "TCP");
            let number = port.get("port").cloned().unwrap_or_default();
            set_default(port, &["targetPort"], number);
        }
    }
    set_default(object, &["status", "loadBalancer"], json!({}));
}

fn role_binding(object: &mut Value) {
    let group = "rbac.authorization.k8s.io";
    set_default(object, &["roleRef", "apiGroup"], group);
    for subject in items(object, "subjects") {
        if text(subject, "/kind") != "ServiceAccount" {
            set_default(subject, &["apiGroup"], group);
        }
    }
}
