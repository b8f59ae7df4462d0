//! Creating and changing objects.

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use crate::defaults;
use crate::garbage;
use crate::object::{self, list, text};
use crate::patch;
use crate::resource::{Resource, named};
use crate::status::{ApiError, ApiResult};
use crate::store::{Key, Store};
use crate::validate;

/// How a write is done.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    pub(crate) manager: String,
    /// Nothing is kept.
    pub(crate) is_dry_run: bool,
    /// The object is the result of an apply, which has noted the manager already.
    pub(crate) is_apply: bool,
}

/// Metadata that a client cannot change.
const FIXED: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "name",
    "namespace",
];

/// Puts a new object.
pub(crate) fn create(
    store: &mut Store,
    resource: &Resource,
    namespace: &str,
    mut object: Value,
    options: &WriteOptions,
) -> ApiResult<Arc<Value>> {
    let given = object::namespace(&object);
    if !given.is_empty() && given != namespace {
        let message = format!(
            "the namespace of the provided object does not match the namespace sent on the request ({given}, {namespace})"
        );
        return Err(ApiError::bad_request(message));
    }
    if !text(&object, "/metadata/resourceVersion").is_empty() {
        let message = "resourceVersion should not be set on objects to be created";
        return Err(ApiError::bad_request(message));
    }
    name_it(&mut object);
    let key = Key::new(resource, namespace, object::name(&object));
    if resource.is_namespaced {
        object::set(&mut object, &["metadata", "namespace"], namespace);
        admit(store, resource, namespace, &object)?;
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        object::remove(&mut object, &["metadata", field]);
    }
    object::set(
        &mut object,
        &["metadata", "uid"],
        Uuid::now_v7().to_string(),
    );
    object::set(
        &mut object,
        &["metadata", "creationTimestamp"],
        object::now(),
    );
    if object.get("spec").is_some() {
        object::set(&mut object, &["metadata", "generation"], 1);
    }
    if resource.has_status {
        object::remove(&mut object, &["status"]);
    }
    defaults::apply(resource, &mut object);
    validate::check(resource, &object, None)?;
    if store.get(&key).is_some() {
        return Err(ApiError::already_exists(resource, &key.name));
    }
    if !options.is_apply {
        object::remove(&mut object, &["metadata", "managedFields"]);
        patch::note_update(None, &mut object, &options.manager, "");
    }
    if options.is_dry_run {
        return Ok(Arc::new(object));
    }
    let created = store.put(key, object);
    if resource.plural == "namespaces" {
        default_account(store, object::name(&created));
    }
    garbage::collect(store);
    Ok(created)
}

fn name_it(object: &mut Value) {
    let prefix = text(object, "/metadata/generateName").to_owned();
    if object::name(object).is_empty() && !prefix.is_empty() {
        let random = Uuid::new_v4().simple().to_string();
        let suffix: String = random.chars().take(5).collect();
        object::set(object, &["metadata", "name"], format!("{prefix}{suffix}"));
    }
}

/// The namespace must live, and a pod's service account exist.
fn admit(store: &Store, resource: &Resource, namespace: &str, object: &Value) -> ApiResult<()> {
    let key = |plural: &'static str, namespace: &str, name: &str| Key {
        plural,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let name = object::name(object);
    match store.get(&key("namespaces", "", namespace)) {
        Some(found) if object::is_deleting(found) => {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            return Err(ApiError::forbidden(resource, name, &why));
        }
        Some(_) => {}
        None => {
            let namespaces = named("namespaces").ok_or_else(ApiError::no_resource)?;
            return Err(ApiError::not_found(namespaces, namespace));
        }
    }
    if resource.plural == "pods" {
        let account = match text(object, "/spec/serviceAccountName") {
            "" => "default",
            account => account,
        };
        let known = store
            .get(&key("serviceaccounts", namespace, account))
            .is_some();
        if !known {
            let why = format!(
                "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
            );
            return Err(ApiError::forbidden(resource, name, &why));
        }
    }
    Ok(())
}

/// Every namespace has the service account `default`.
fn default_account(store: &mut Store, namespace: &str) {
    let Some(accounts) = named("serviceaccounts") else {
        return;
    };
    let account = serde_json::json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {
            "name": "default", "namespace": namespace,
            "uid": Uuid::now_v7().to_string(), "creationTimestamp": object::now(),
        },
    });
    store.put(Key::new(accounts, namespace, "default"), account);
}

/// Puts what takes the place of an object; `subresource` is `status` or empty.
pub(crate) fn update(
    store: &mut Store,
    resource: &Resource,
    key: &Key,
    mut object: Value,
    subresource: &str,
    options: &WriteOptions,
) -> ApiResult<Arc<Value>> {
    let Some(before) = store.get(key).cloned() else {
        return Err(ApiError::not_found(resource, &key.name));
    };
    let name = object::name(&object);
    if name != key.name {
        let message = format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            key.name
        );
        return Err(ApiError::bad_request(message));
    }
    let uid = object::uid(&object);
    if !uid.is_empty() && uid != object::uid(&before) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(&before)
        );
        return Err(ApiError::conflict(resource, &key.name, &why));
    }
    let version = text(&object, "/metadata/resourceVersion");
    if !version.is_empty() && version != text(&before, "/metadata/resourceVersion") {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        return Err(ApiError::conflict(resource, &key.name, why));
    }
    keep_fixed(resource, &before, &mut object, subresource);
    defaults::apply(resource, &mut object);
    if before.get("spec") != object.get("spec")
        && let Some(generation) = before
            .pointer("/metadata/generation")
            .and_then(Value::as_u64)
    {
        object::set(&mut object, &["metadata", "generation"], generation + 1);
    }
    validate::check(resource, &object, Some(&before))?;
    if !options.is_apply {
        patch::note_update(Some(&before), &mut object, &options.manager, subresource);
    }
    if is_same(&before, &object) {
        return Ok(before);
    }
    if options.is_dry_run {
        return Ok(Arc::new(object));
    }
    let is_finished = object::is_deleting(&object)
        && list(&object, "/metadata/finalizers").is_empty()
        && !list(&before, "/metadata/finalizers").is_empty();
    let after = store.put(key.clone(), object);
    if is_finished && !garbage::is_graceful(resource, &after) {
        store.remove(key);
    }
    garbage::collect(store);
    Ok(after)
}

fn keep_fixed(resource: &Resource, before: &Value, object: &mut Value, subresource: &str) {
    if subresource == "status" {
        let status = object::remove(object, &["status"]);
        let fields = object.pointer("/metadata/managedFields").cloned();
        *object = before.clone();
        object::set(object, &["status"], status.unwrap_or_default());
        if let Some(fields) = fields {
            object::set(object, &["metadata", "managedFields"], fields);
        }
        return;
    }
    for field in FIXED {
        match before.pointer(&format!("/metadata/{field}")) {
            Some(value) => object::set(object, &["metadata", field], value.clone()),
            None => {
                object::remove(object, &["metadata", field]);
            }
        }
    }
    if resource.has_status {
        match before.get("status") {
            Some(status) => object::set(object, &["status"], status.clone()),
            None => {
                object::remove(object, &["status"]);
            }
        }
    }
    // The node and the address of a service are given once.
    for path in [["spec", "nodeName"], ["spec", "clusterIP"]] {
        if let Some(value) = before.pointer(&format!("/{}", path.join("/"))) {
            object::set_default(object, &path, value.clone());
        }
    }
}

fn is_same(before: &Value, after: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        for field in ["managedFields", "resourceVersion"] {
            object::remove(&mut object, &["metadata", field]);
        }
        object
    };
    let managers = |object: &Value| -> Vec<(String, Value)> {
        list(object, "/metadata/managedFields")
            .iter()
            .map(|m| {
                (
                    text(m, "/manager").to_owned(),
                    m.get("fieldsV1").cloned().unwrap_or_default(),
                )
            })
            .collect()
    };
    bare(before) == bare(after) && managers(before) == managers(after)
}
