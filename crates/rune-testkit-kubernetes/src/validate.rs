//! What an object must be beyond its type.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::object::{self, list, text};
use crate::resource::Resource;
use crate::status::{ApiError, ApiResult, Problem};

/// Checks a new object, or one that takes the place of another.
pub(crate) fn check(resource: &Resource, object: &Value, before: Option<&Value>) -> ApiResult<()> {
    let mut problems = Vec::new();
    metadata(resource, object, &mut problems);
    match resource.plural {
        "pods" => {
            pod_spec(object.pointer("/spec"), &[], "spec", &mut problems);
            if let Some(before) = before {
                pod_change(before, object, &mut problems);
            }
        }
        "deployments" => workload(object, before, &mut problems),
        "statefulsets" => {
            workload(object, before, &mut problems);
            stateful(object, before, &mut problems);
        }
        "secrets" | "configmaps" => {
            let immutable = before.is_some_and(|b| b.get("immutable") == Some(&Value::Bool(true)));
            let same = |field: &str| before.and_then(|b| b.get(field)) == object.get(field);
            if immutable && !(same("data") && same("immutable")) {
                problems.push(Problem::forbidden(
                    "data",
                    "field is immutable when `immutable` is set",
                ));
            }
        }
        "services" if list(object, "/spec/ports").is_empty() => {
            problems.push(Problem::required("spec.ports"));
        }
        "rolebindings" | "clusterrolebindings" => {
            if text(object, "/roleRef/name").is_empty() {
                problems.push(Problem::required("roleRef.name"));
            }
            let changed = before.is_some_and(|b| b.get("roleRef") != object.get("roleRef"));
            if changed {
                let why = "cannot change roleRef";
                problems.push(Problem::invalid("roleRef", object::name(object), why));
            }
        }
        "persistentvolumeclaims" if list(object, "/spec/accessModes").is_empty() => {
            problems.push(Problem::required("spec.accessModes"));
        }
        _ => {}
    }
    if problems.is_empty() {
        return Ok(());
    }
    let name = object::name(object);
    Err(ApiError::invalid(
        resource.kind,
        resource.group,
        name,
        &problems,
    ))
}

fn metadata(resource: &Resource, object: &Value, problems: &mut Vec<Problem>) {
    let name = object::name(object);
    let is_label = matches!(resource.plural, "namespaces" | "services");
    // Names of roles are paths, and not of DNS.
    let ok = match resource.group {
        "rbac.authorization.k8s.io" => !name.is_empty() && !name.contains(['/', '%']),
        _ if is_label => is_dns_label(name),
        _ => is_dns_subdomain(name),
    };
    if name.is_empty() {
        problems.push(Problem::required("metadata.name"));
    } else if !ok {
        let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                   and must start and end with an alphanumeric character";
        problems.push(Problem::invalid("metadata.name", name, why));
    }
    let labels = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        if !is_qualified(key) {
            let why = "name part must consist of alphanumeric characters, '-', '_' or '.'";
            problems.push(Problem::invalid("metadata.labels", key, why));
        }
        let value = value.as_str().unwrap_or("");
        if !value.is_empty() && !is_label_value(value) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'";
            problems.push(Problem::invalid("metadata.labels", value, why));
        }
    }
    for (at, owner) in list(object, "/metadata/ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                let field = format!("metadata.ownerReferences[{at}].{field}");
                problems.push(Problem::required(field));
            }
        }
    }
}

/// Checks a pod's specification; `claims` are volumes that come with it.
fn pod_spec(spec: Option<&Value>, claims: &[Value], path: &str, problems: &mut Vec<Problem>) {
    let spec = spec.unwrap_or(&Value::Null);
    let containers = list(spec, "/containers");
    if containers.is_empty() {
        problems.push(Problem::required(format!("{path}.containers")));
    }
    let volumes: BTreeSet<&str> = list(spec, "/volumes")
        .iter()
        .map(|volume| text(volume, "/name"))
        .chain(claims.iter().map(object::name))
        .collect();
    let mut names = BTreeSet::new();
    for (kind, containers) in [
        ("containers", containers),
        ("initContainers", list(spec, "/initContainers")),
    ] {
        for (at, container) in containers.iter().enumerate() {
            let path = format!("{path}.{kind}[{at}]");
            let name = text(container, "/name");
            if name.is_empty() {
                problems.push(Problem::required(format!("{path}.name")));
            } else if !is_dns_label(name) {
                let why = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'";
                problems.push(Problem::invalid(format!("{path}.name"), name, why));
            } else if !names.insert(name) {
                problems.push(Problem::duplicate(format!("{path}.name"), name));
            }
            if text(container, "/image").is_empty() {
                problems.push(Problem::required(format!("{path}.image")));
            }
            for (at, mount) in list(container, "/volumeMounts").iter().enumerate() {
                let name = text(mount, "/name");
                if !volumes.contains(name) {
                    let field = format!("{path}.volumeMounts[{at}].name");
                    problems.push(Problem::invalid(field, name, "Not found"));
                }
            }
            quantities(container, &path, problems);
        }
    }
}

fn quantities(container: &Value, path: &str, problems: &mut Vec<Problem>) {
    for kind in ["limits", "requests"] {
        let values = container.pointer(&format!("/resources/{kind}"));
        for (what, value) in values.and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or("");
            if quantity(value).is_none() {
                let field = format!("{path}.resources.{kind}[{what}]");
                problems.push(Problem::invalid(
                    field,
                    value,
                    "quantities must match the regular expression",
                ));
            }
        }
    }
    for what in ["cpu", "memory"] {
        let of = |kind: &str| quantity(text(container, &format!("/resources/{kind}/{what}")));
        if let (Some(request), Some(limit)) = (of("requests"), of("limits"))
            && request > limit
        {
            let field = format!("{path}.resources.requests");
            let why = format!("must be less than or equal to {what} limit");
            problems.push(Problem::invalid(field, &request.to_string(), &why));
        }
    }
}

/// A quantity such as `500m` or `2Gi`, in thousandths.
pub(crate) fn quantity(text: &str) -> Option<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let unit: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = whole.parse().ok()?;
    let mut value = whole.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.chars() {
        scale /= 10;
        value += u128::from(digit.to_digit(10)?) * scale;
    }
    Some(value)
}

/// Of a pod only images and a few limits can be changed.
fn pod_change(before: &Value, after: &Value, problems: &mut Vec<Problem>) {
    let fixed = |pod: &Value| {
        let mut spec = pod.get("spec").cloned().unwrap_or_default();
        for field in [
            "activeDeadlineSeconds",
            "tolerations",
            "terminationGracePeriodSeconds",
        ] {
            object::remove(&mut spec, &[field]);
        }
        for kind in ["containers", "initContainers"] {
            let containers = spec.get_mut(kind).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                object::remove(container, &["image"]);
            }
        }
        spec
    };
    if fixed(before) != fixed(after) {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                   `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        problems.push(Problem::forbidden("spec", why));
    }
}

fn workload(object: &Value, before: Option<&Value>, problems: &mut Vec<Problem>) {
    let template = object.pointer("/spec/template/spec");
    let claims = list(object, "/spec/volumeClaimTemplates");
    pod_spec(template, claims, "spec.template.spec", problems);
    let selector = object.pointer("/spec/selector/matchLabels");
    let labels = object.pointer("/spec/template/metadata/labels");
    let wanted = selector.and_then(Value::as_object);
    if wanted.is_none_or(serde_json::Map::is_empty) {
        problems.push(Problem::required("spec.selector"));
    }
    for (key, value) in wanted.into_iter().flatten() {
        if labels.and_then(|l| l.get(key)) != Some(value) {
            let why = "`selector` does not match template `labels`";
            problems.push(Problem::invalid("spec.template.metadata.labels", key, why));
        }
    }
    let of = |o: &Value| o.pointer("/spec/selector").cloned();
    if before.is_some_and(|before| of(before) != of(object)) {
        problems.push(Problem::invalid("spec.selector", "", "field is immutable"));
    }
}

/// What of a stateful set cannot be changed, and what this server does not have.
fn stateful(object: &Value, before: Option<&Value>, problems: &mut Vec<Problem>) {
    let fixed = |set: &Value| {
        let mut spec = set.get("spec").cloned().unwrap_or_default();
        for field in [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
            "revisionHistoryLimit",
        ] {
            object::remove(&mut spec, &[field]);
        }
        spec
    };
    if before.is_some_and(|before| fixed(before) != fixed(object)) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                   'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        problems.push(Problem::forbidden("spec", why));
    }
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64);
    let policy = "/spec/persistentVolumeClaimRetentionPolicy";
    let deletes = |when: &str| text(object, &format!("{policy}/{when}")) == "Delete";
    for (is_asked, field) in [
        (
            number("/spec/updateStrategy/rollingUpdate/partition").is_some_and(|n| n > 0),
            "spec.updateStrategy.rollingUpdate.partition",
        ),
        (
            number("/spec/minReadySeconds").is_some_and(|n| n > 0),
            "spec.minReadySeconds",
        ),
        (
            deletes("whenDeleted") || deletes("whenScaled"),
            "spec.persistentVolumeClaimRetentionPolicy",
        ),
    ] {
        if is_asked {
            problems.push(Problem::forbidden(
                field,
                "the controllers of this test kit do not have it",
            ));
        }
    }
}

fn is_dns_label(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= 63
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

fn is_label_value(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_value(name),
        None => is_label_value(key),
    }
}

#[cfg(test)]
mod tests {
    use super::quantity;

    #[test]
    fn reads_quantities() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("500m", Some(500)),
            ("0.5", Some(500)),
            ("1.25", Some(1250)),
            ("1Ki", Some(1_024_000)),
            ("0.5Gi", Some(1000 << 29)),
            ("2M", Some(2_000_000_000)),
            ("", None),
            ("x", None),
            ("1Q", None),
        ] {
            assert_eq!(quantity(text), expected, "{text}");
        }
    }
}
