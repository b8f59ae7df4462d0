//! Deletion: graceful, held up by finalizers, and of what the deleted owned.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::object::{self, list, text};
use crate::resource::{Resource, named};
use crate::status::{ApiError, ApiResult};
use crate::store::{Key, Store};

/// What holds an owner until what it owns is gone.
const FOREGROUND: &str = "foregroundDeletion";

/// How an object is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) propagation: Propagation,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) is_dry_run: bool,
}

/// What happens with what the deleted owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Propagation {
    #[default]
    Background,
    Foreground,
    Orphan,
}

impl DeleteOptions {
    /// Reads the body and then the parameters of a request.
    pub(crate) fn parse(body: &Value, parameter: impl Fn(&str) -> String) -> ApiResult<Self> {
        let either = |name: &str| match parameter(name).as_str() {
            "" => text(body, &format!("/{name}")).to_owned(),
            given => given.to_owned(),
        };
        let grace = body.get("gracePeriodSeconds").and_then(Value::as_i64);
        let given = parameter("gracePeriodSeconds");
        let grace_seconds = match given.as_str() {
            "" => grace,
            given => Some(given.parse().map_err(|_| {
                ApiError::bad_request(format!("gracePeriodSeconds: invalid value {given}"))
            })?),
        };
        let propagation = match either("propagationPolicy").as_str() {
            "" | "Background" => Propagation::Background,
            "Foreground" => Propagation::Foreground,
            "Orphan" => Propagation::Orphan,
            other => {
                let message = format!("propagationPolicy: Unsupported value: \"{other}\"");
                return Err(ApiError::bad_request(message));
            }
        };
        let condition = |name: &str| {
            let found = body.pointer(&format!("/preconditions/{name}"));
            found.and_then(Value::as_str).map(str::to_owned)
        };
        let dry_run = list(body, "/dryRun").iter().any(|v| v == "All");
        Ok(Self {
            grace_seconds,
            propagation,
            uid: condition("uid"),
            resource_version: condition("resourceVersion"),
            is_dry_run: dry_run || parameter("dryRun") == "All",
        })
    }
}

/// What a deletion came to.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// It is gone; how it was last.
    Gone(Arc<Value>),
    /// It goes when its time or its finalizers are over.
    Going(Arc<Value>),
}

/// Deletes an object.
pub(crate) fn delete(
    store: &mut Store,
    resource: &Resource,
    key: &Key,
    options: &DeleteOptions,
) -> ApiResult<Deleted> {
    let Some(before) = store.get(key).cloned() else {
        return Err(ApiError::not_found(resource, &key.name));
    };
    for (wanted, is, what) in [
        (&options.uid, object::uid(&before), "UID"),
        (
            &options.resource_version,
            text(&before, "/metadata/resourceVersion"),
            "ResourceVersion",
        ),
    ] {
        if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != is) {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}"
            );
            return Err(ApiError::conflict(resource, &key.name, &why));
        }
    }
    if options.is_dry_run {
        return Ok(Deleted::Going(before));
    }
    if options.propagation == Propagation::Orphan {
        orphan(store, object::uid(&before));
    }
    begin(store, resource, key, options);
    collect(store);
    Ok(match store.get(key) {
        Some(going) if object::uid(going) == object::uid(&before) => {
            Deleted::Going(Arc::clone(going))
        }
        _ => Deleted::Gone(before),
    })
}

/// Removes an object, or marks it where it cannot go yet.
fn begin(store: &mut Store, resource: &Resource, key: &Key, options: &DeleteOptions) {
    let Some(before) = store.get(key).cloned() else {
        return;
    };
    let mut object = Value::clone(&before);
    let grace = match resource.plural {
        "pods" => grace_of(&before, options.grace_seconds),
        _ => 0,
    };
    let was = before.pointer("/metadata/deletionGracePeriodSeconds");
    let was = was.and_then(Value::as_i64);
    let is_shorter = was.is_none_or(|was| grace < was);
    if is_shorter {
        let end = Timestamp::now() + SignedDuration::from_secs(grace);
        object::set(
            &mut object,
            &["metadata", "deletionTimestamp"],
            object::at(end),
        );
        object::set(
            &mut object,
            &["metadata", "deletionGracePeriodSeconds"],
            grace,
        );
    }
    if options.propagation == Propagation::Foreground && !has_finalizer(&object, FOREGROUND) {
        let mut finalizers = list(&object, "/metadata/finalizers").to_vec();
        finalizers.push(json!(FOREGROUND));
        object::set(&mut object, &["metadata", "finalizers"], finalizers);
    }
    if resource.plural == "namespaces" {
        object::set(&mut object, &["status", "phase"], "Terminating");
    }
    let holds = resource.plural == "namespaces"
        || !list(&object, "/metadata/finalizers").is_empty()
        || is_graceful(resource, &object);
    if !holds {
        store.remove(key);
    } else if object != *before {
        store.put(key.clone(), object);
    }
}

/// How long a pod has; one that no node has taken needs no time.
fn grace_of(pod: &Value, asked: Option<i64>) -> i64 {
    if text(pod, "/spec/nodeName").is_empty() {
        return 0;
    }
    let own = pod.pointer("/spec/terminationGracePeriodSeconds");
    let own = own.and_then(Value::as_i64).unwrap_or(30);
    asked.unwrap_or(own).max(0)
}

/// Whether it waits for its node to end it.
pub(crate) fn is_graceful(resource: &Resource, object: &Value) -> bool {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds");
    resource.plural == "pods" && grace.and_then(Value::as_i64).is_some_and(|grace| grace > 0)
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    list(object, "/metadata/finalizers")
        .iter()
        .any(|f| f == name)
}

fn owners(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "/metadata/ownerReferences")
        .iter()
        .map(|owner| text(owner, "/uid"))
}

/// Takes an owner away from what it owns.
fn orphan(store: &mut Store, uid: &str) {
    let owned: Vec<(Key, Value)> = store
        .all()
        .filter(|(_, object)| owners(object).any(|owner| owner == uid))
        .map(|(key, object)| (key.clone(), Value::clone(object)))
        .collect();
    for (key, mut object) in owned {
        let left: Vec<Value> = list(&object, "/metadata/ownerReferences")
            .iter()
            .filter(|owner| text(owner, "/uid") != uid)
            .cloned()
            .collect();
        object::set(&mut object, &["metadata", "ownerReferences"], left);
        store.put(key, object);
    }
}

/// Deletes what has no owner or no namespace left, and lets go of what waited for that.
pub(crate) fn collect(store: &mut Store) {
    while let Some((key, step)) = next_step(store) {
        let Some(resource) = named(key.plural) else {
            return;
        };
        match step {
            Step::Delete => begin(store, resource, &key, &DeleteOptions::default()),
            Step::Remove => {
                store.remove(&key);
            }
            Step::Disown(left) => {
                let Some(object) = store.get(&key) else {
                    return;
                };
                let mut object = Value::clone(object);
                object::set(&mut object, &["metadata", "ownerReferences"], left);
                store.put(key, object);
            }
            Step::Release => {
                let Some(object) = store.get(&key) else {
                    return;
                };
                let mut object = Value::clone(object);
                let left: Vec<Value> = list(&object, "/metadata/finalizers")
                    .iter()
                    .filter(|f| *f != FOREGROUND)
                    .cloned()
                    .collect();
                let is_last = left.is_empty() && !is_graceful(resource, &object);
                object::set(&mut object, &["metadata", "finalizers"], left);
                store.put(key.clone(), object);
                if is_last {
                    store.remove(&key);
                }
            }
        }
    }
}

enum Step {
    Delete,
    Remove,
    /// Of its owners these are left.
    Disown(Vec<Value>),
    /// Its last dependent is gone.
    Release,
}

fn next_step(store: &Store) -> Option<(Key, Step)> {
    let living: BTreeSet<&str> = store.all().map(|(_, object)| object::uid(object)).collect();
    let going: BTreeSet<&str> = store
        .all()
        .filter(|(_, object)| object::is_deleting(object) && has_finalizer(object, FOREGROUND))
        .map(|(_, object)| object::uid(object))
        .collect();
    let ending: BTreeSet<&str> = store
        .all()
        .filter(|(key, object)| key.plural == "namespaces" && object::is_deleting(object))
        .map(|(key, _)| key.name.as_str())
        .collect();
    for (key, object) in store.all() {
        let mut owned = owners(object).peekable();
        let is_owned = owned.peek().is_some();
        let lost = is_owned && owned.all(|uid| !living.contains(uid) || going.contains(uid));
        if (lost || ending.contains(key.namespace.as_str())) && !object::is_deleting(object) {
            return Some((key.clone(), Step::Delete));
        }
        let left = list(object, "/metadata/ownerReferences").iter();
        let left = left.filter(|owner| living.contains(text(owner, "/uid")));
        let left: Vec<Value> = left.cloned().collect();
        if !left.is_empty() && left.len() < owners(object).count() {
            return Some((key.clone(), Step::Disown(left)));
        }
        if going.contains(object::uid(object)) {
            let uid = object::uid(object);
            let waits = store
                .all()
                .any(|(_, other)| owners(other).any(|owner| owner == uid));
            if !waits {
                return Some((key.clone(), Step::Release));
            }
        }
        if ending.contains(key.name.as_str()) && key.plural == "namespaces" {
            let is_empty = !store.all().any(|(other, _)| other.namespace == key.name);
            let finalizers = list(object, "/metadata/finalizers");
            if is_empty && finalizers.is_empty() {
                return Some((key.clone(), Step::Remove));
            }
        }
    }
    None
}
