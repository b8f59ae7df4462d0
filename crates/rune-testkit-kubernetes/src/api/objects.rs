//! Objects: read, listed, watched, written and deleted.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, Method, Response, header};
use serde_json::{Value, json};

use super::{authorize, bytes, json as respond, pods};
use crate::access::Identity;
use crate::call::{Call, Target};
use crate::cluster::{Cluster, RestOfList};
use crate::decode::{Decoded, FieldValidation, decode};
use crate::garbage::{self, DeleteOptions, Deleted};
use crate::object;
use crate::patch::{Apply, Patch};
use crate::selector::Selector;
use crate::status::{ApiError, ApiResult};
use crate::store::{Key, Store};
use crate::table::table;
use crate::watching::Watch;
use crate::write::{self, WriteOptions};

pub(super) async fn route(
    cluster: &Arc<Cluster>,
    call: &Call,
    identity: &Identity,
    mut target: Target,
) -> ApiResult<Response<Body>> {
    let is_one = !target.name.is_empty();
    let verb = match (&call.method, is_one) {
        (&Method::GET, true) => "get",
        (&Method::GET, false) if call.is_set("watch") => "watch",
        (&Method::GET, false) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, true) => "update",
        (&Method::PATCH, true) => "patch",
        (&Method::DELETE, true) => "delete",
        (&Method::DELETE, false) => "deletecollection",
        (method, _) => return Err(ApiError::method_not_allowed(method.as_str())),
    };
    if !is_one {
        // Who selects one by its name may be allowed that one only.
        let fields = call.parameter("fieldSelector").split(',');
        let name = fields
            .filter_map(|f| f.strip_prefix("metadata.name="))
            .next();
        target.name = name.unwrap_or("").to_owned();
    }
    authorize(cluster, identity, verb, &target)?;
    if !is_one {
        target.name.clear();
    }
    match (verb, target.subresource.as_str()) {
        ("get", "log") => pods::log(cluster, call, &target).await,
        ("create", "token") => pods::token(cluster, &target),
        ("get", "" | "status") => get(cluster, call, &target),
        ("list", _) => list(cluster, call, &target),
        ("watch", _) => watch(cluster, call, &target),
        ("create", "") if !is_one => create(cluster, call, &target),
        ("update", "" | "status") => update(cluster, call, &target),
        ("patch", "" | "status") => patch(cluster, call, identity, &target),
        ("delete", "") => delete(cluster, call, &target),
        ("deletecollection", _) => delete_all(cluster, call, &target),
        _ => Err(ApiError::method_not_allowed(call.method.as_str())),
    }
}

fn key(target: &Target) -> Key {
    let namespace = target.namespace.as_deref().unwrap_or("");
    Key::new(target.resource, namespace, &target.name)
}

fn find(store: &Store, target: &Target) -> ApiResult<Arc<Value>> {
    let found = store.get(&key(target)).cloned();
    found.ok_or_else(|| ApiError::not_found(target.resource, &target.name))
}

fn get(cluster: &Cluster, call: &Call, target: &Target) -> ApiResult<Response<Body>> {
    let found = find(&cluster.store(), target)?;
    Ok(match call.as_table() {
        None => respond(200, &found),
        Some(include) => {
            let metadata = json!({"resourceVersion": found.pointer("/metadata/resourceVersion")});
            let one = std::iter::once(&*found);
            respond(200, &table(target.resource, one, &metadata, include))
        }
    })
}

fn selector(call: &Call, target: &Target) -> ApiResult<Selector> {
    let (labels, fields) = ("labelSelector", "fieldSelector");
    let plural = target.resource.plural;
    Selector::parse(plural, call.parameter(labels), call.parameter(fields))
}

fn list(cluster: &Cluster, call: &Call, target: &Target) -> ApiResult<Response<Body>> {
    let selector = selector(call, target)?;
    let RestOfList {
        revision,
        mut objects,
    } = match call.parameter("continue") {
        "" => {
            let store = cluster.store();
            let asked = call.parameter("resourceVersion").parse::<u64>();
            if asked.is_ok_and(|asked| asked > store.revision()) {
                let message = format!("Too large resource version, current: {}", store.revision());
                return Err(ApiError::bad_request(message));
            }
            let listed = store.list(target.resource, target.namespace.as_deref());
            RestOfList {
                revision: store.revision(),
                objects: listed
                    .filter(|(_, object)| selector.matches(object))
                    .map(|(_, object)| Arc::clone(object))
                    .collect(),
            }
        }
        token => cluster.take(token).ok_or_else(|| {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result",
            )
        })?,
    };
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    let limit = call.parameter("limit").parse::<usize>().unwrap_or(0);
    if limit > 0 && objects.len() > limit {
        let rest = objects.split_off(limit);
        object::set(&mut metadata, &["remainingItemCount"], rest.len());
        let token = cluster.keep(RestOfList {
            revision,
            objects: rest,
        });
        object::set(&mut metadata, &["continue"], token);
    }
    if let Some(include) = call.as_table() {
        let rows = objects.iter().map(|object| &**object);
        return Ok(respond(
            200,
            &table(target.resource, rows, &metadata, include),
        ));
    }
    let items: Vec<Value> = objects
        .iter()
        .map(|object| {
            // Items of a list do not repeat what they are.
            let mut item = Value::clone(object);
            object::remove(&mut item, &["kind"]);
            object::remove(&mut item, &["apiVersion"]);
            item
        })
        .collect();
    let listed = json!({
        "kind": format!("{}List", target.resource.kind), "apiVersion": target.resource.api_version(),
        "metadata": metadata, "items": items,
    });
    Ok(respond(200, &listed))
}

fn watch(cluster: &Arc<Cluster>, call: &Call, target: &Target) -> ApiResult<Response<Body>> {
    let timeout = call.parameter("timeoutSeconds").parse::<u64>();
    let watch = Watch {
        resource: target.resource,
        namespace: target.namespace.clone(),
        selector: selector(call, target)?,
        from: call.parameter("resourceVersion").to_owned(),
        wants_bookmarks: call.is_set("allowWatchBookmarks"),
        sends_initial: call.is_set("sendInitialEvents"),
        timeout: timeout.ok().map(Duration::from_secs),
        as_table: call.as_table(),
    };
    let stream = watch.run(Arc::clone(cluster));
    Ok(bytes("application/json", Body::from_stream(stream)))
}

fn options(call: &Call) -> WriteOptions {
    WriteOptions {
        manager: call.manager().to_owned(),
        is_dry_run: call.parameter("dryRun") == "All",
        is_apply: false,
    }
}

fn read(call: &Call, target: &Target, object: Value) -> ApiResult<Decoded> {
    let validation = FieldValidation::parse(call.parameter("fieldValidation"))?;
    decode(target.resource, object, validation)
}

/// An object with the warnings about it.
fn written(code: u16, object: &Value, warnings: &[String]) -> Response<Body> {
    let mut response = respond(code, object);
    for warning in warnings {
        let text = format!("299 - \"{}\"", warning.replace('"', "\\\""));
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

fn create(cluster: &Cluster, call: &Call, target: &Target) -> ApiResult<Response<Body>> {
    let Decoded { object, warnings } = read(call, target, call.json()?)?;
    if target.resource.is_namespaced && target.namespace.is_none() {
        return Err(ApiError::method_not_allowed("POST"));
    }
    let namespace = target.namespace.as_deref().unwrap_or("");
    let (store, resource) = (&mut cluster.store(), target.resource);
    let created = write::create(store, resource, namespace, object, &options(call))?;
    Ok(written(201, &created, &warnings))
}

fn update(cluster: &Cluster, call: &Call, target: &Target) -> ApiResult<Response<Body>> {
    let Decoded { object, warnings } = read(call, target, call.json()?)?;
    let (store, part) = (&mut cluster.store(), target.subresource.as_str());
    let (key, options) = (key(target), options(call));
    let updated = write::update(store, target.resource, &key, object, part, &options)?;
    Ok(written(200, &updated, &warnings))
}

fn patch(
    cluster: &Cluster,
    call: &Call,
    identity: &Identity,
    target: &Target,
) -> ApiResult<Response<Body>> {
    let patch = Patch::parse(call.media_type(), &call.body)?;
    let mut options = options(call);
    let key = key(target);
    let live = cluster.store().get(&key).cloned();
    if live.is_none() && matches!(patch, Patch::Apply(_)) {
        authorize(cluster, identity, "create", target)?;
    }
    let store = &mut cluster.store();
    let live = store.get(&key).cloned();
    let changed = match &patch {
        Patch::Apply(applied) => {
            if call.parameter("fieldManager").is_empty() {
                let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
                return Err(ApiError::bad_request(message));
            }
            options.is_apply = true;
            // What is unknown is found in what was sent: the merge would hide whose it is.
            read(call, target, applied.clone())?;
            let apply = Apply {
                manager: &options.manager,
                force: call.is_set("force"),
                applied,
            };
            apply.run(live.as_deref())?
        }
        patch => {
            let live = live.as_deref();
            let live = live.ok_or_else(|| ApiError::not_found(target.resource, &target.name))?;
            let mut changed = live.clone();
            patch.change(&mut changed)?;
            changed
        }
    };
    let Decoded { object, warnings } = read(call, target, changed)?;
    if live.is_none() {
        let namespace = target.namespace.as_deref().unwrap_or("");
        let mut object = object;
        object::set(&mut object, &["metadata", "name"], target.name.as_str());
        let created = write::create(store, target.resource, namespace, object, &options)?;
        return Ok(written(201, &created, &warnings));
    }
    let part = target.subresource.as_str();
    let updated = write::update(store, target.resource, &key, object, part, &options)?;
    Ok(written(200, &updated, &warnings))
}

fn delete_options(call: &Call) -> ApiResult<DeleteOptions> {
    let body = call.json()?;
    DeleteOptions::parse(&body, |name| call.parameter(name).to_owned())
}

fn delete(cluster: &Cluster, call: &Call, target: &Target) -> ApiResult<Response<Body>> {
    let options = delete_options(call)?;
    let store = &mut cluster.store();
    let deleted = garbage::delete(store, target.resource, &key(target), &options)?;
    Ok(match deleted {
        Deleted::Going(object) => respond(200, &object),
        Deleted::Gone(object) => {
            let details = json!({
                "name": target.name, "group": target.resource.group, "kind": target.resource.plural,
                "uid": object::uid(&object),
            });
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
            });
            respond(200, &status)
        }
    })
}

fn delete_all(cluster: &Cluster, call: &Call, target: &Target) -> ApiResult<Response<Body>> {
    let (options, selector) = (delete_options(call)?, selector(call, target)?);
    let store = &mut cluster.store();
    let keys: Vec<Key> = store
        .list(target.resource, target.namespace.as_deref())
        .filter(|(_, object)| selector.matches(object))
        .map(|(key, _)| key.clone())
        .collect();
    for key in keys {
        match garbage::delete(store, target.resource, &key, &options) {
            // One that went with another is gone.
            Err(error) if error.code == 404 => {}
            result => {
                result?;
            }
        }
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    Ok(respond(200, &status))
}
