//! What the API has: the documents by which clients find their way.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::resource::{RESOURCES, Resource};

/// The release whose API this is.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
    })
}

/// `/api`
pub(crate) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// Kinds that can only be created, and are not kept.
const REVIEWS: (&str, &str, &str, &str) = (
    "authorization.k8s.io",
    "v1",
    "selfsubjectaccessreviews",
    "SelfSubjectAccessReview",
);

fn groups() -> BTreeSet<(&'static str, &'static str)> {
    let known = RESOURCES.iter().map(|r| (r.group, r.version));
    known.chain([(REVIEWS.0, REVIEWS.1)]).collect()
}

fn group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

/// `/apis`
pub(crate) fn group_list() -> Value {
    let groups: Vec<Value> = groups()
        .into_iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, version)| group(name, version))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`
pub(crate) fn one_group(name: &str) -> Option<Value> {
    let (name, version) = groups().into_iter().find(|(is, _)| *is == name)?;
    let mut found = group(name, version);
    crate::object::set(&mut found, &["kind"], "APIGroup");
    crate::object::set(&mut found, &["apiVersion"], "v1");
    Some(found)
}

/// The resources of a version of a group.
pub(crate) fn resource_list(group: &str, version: &str) -> Option<Value> {
    groups().contains(&(group, version)).then_some(())?;
    let mut resources = Vec::new();
    let of = |r: &&Resource| r.group == group && r.version == version;
    for r in RESOURCES.iter().filter(of) {
        resources.push(json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.is_namespaced, "kind": r.kind,
            "shortNames": r.short, "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        }));
        let status = r.has_status.then_some("status");
        for name in status.iter().chain(r.subresources()) {
            let kind = if *name == "token" {
                "TokenRequest"
            } else {
                r.kind
            };
            let verbs = match *name {
                "log" => vec!["get"],
                "token" => vec!["create"],
                _ => vec!["get", "patch", "update"],
            };
            resources.push(json!({
                "name": format!("{}/{name}", r.plural), "singularName": "", "namespaced": r.is_namespaced,
                "kind": kind, "verbs": verbs,
            }));
        }
    }
    if group == REVIEWS.0 {
        resources.push(json!({
            "name": REVIEWS.2, "singularName": "selfsubjectaccessreview", "namespaced": false, "kind": REVIEWS.3,
            "verbs": ["create"],
        }));
    }
    let group_version = group_version(group, version);
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    )
}

fn group_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

fn root(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

/// `/openapi/v3`: where the documents are.
pub(crate) fn openapi_v3() -> Value {
    let mut paths = json!({});
    for (group, version) in groups() {
        let root = root(group, version);
        let url = json!({"serverRelativeURL": format!("/openapi/v3/{root}?hash=1")});
        crate::object::set(&mut paths, &[&root], url);
    }
    json!({"paths": paths})
}

/// The document of a group, which says what clients look for before they send a change: that a patch takes
/// `fieldValidation`, so that the server and not the client finds unknown fields.
pub(crate) fn openapi_v3_of(path: &str) -> Option<Value> {
    let (group, version) = groups()
        .into_iter()
        .find(|(group, version)| root(group, version) == path)?;
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation", "force"]
        .map(parameter)
        .to_vec();
    let mut paths = json!({});
    for r in RESOURCES
        .iter()
        .filter(|r| r.group == group && r.version == version)
    {
        let scope = if r.is_namespaced {
            "namespaces/{namespace}/"
        } else {
            ""
        };
        let path = format!("/{path}/{scope}{}/{{name}}", r.plural);
        let kind = json!({"group": r.group, "version": r.version, "kind": r.kind});
        let patch = json!({
            "operationId": format!("patch{}", r.kind), "parameters": parameters, "responses": {},
            "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": kind,
        });
        crate::object::set(&mut paths, &[&path, "patch"], patch);
    }
    let info = json!({"title": "Kubernetes", "version": "v1.33.0"});
    Some(json!({"openapi": "3.0.0", "info": info, "paths": paths}))
}

/// `/openapi/v2` in Protocol Buffers, the only form in which older clients ask for it: a document without definitions,
/// by which they leave it to the server to find what is wrong.
pub(crate) fn openapi_v2() -> Vec<u8> {
    let field = |number: u8, value: &[u8]| {
        let mut bytes = vec![number << 3 | 2, u8::try_from(value.len()).unwrap_or(0)];
        bytes.extend_from_slice(value);
        bytes
    };
    let info = [field(1, b"Kubernetes"), field(2, b"v1.33.0")].concat();
    [field(1, b"2.0"), field(2, &info), field(8, b"")].concat()
}
