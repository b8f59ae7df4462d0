//! Events about objects.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::object::{self, text};
use crate::resource::named;
use crate::store::Store;
use crate::write::{self, WriteOptions};

/// Whether an event says that something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Normal,
    Warning,
}

/// Notes an event about an object, as `component` says it.
pub(crate) fn note(
    store: &mut Store,
    about: &Value,
    component: &str,
    level: Level,
    reason: &str,
    message: &str,
) {
    let Some(events) = named("events") else {
        return;
    };
    let (name, namespace) = (object::name(about), object::namespace(about));
    let level = match level {
        Level::Normal => "Normal",
        Level::Warning => "Warning",
    };
    let (now, id) = (object::now(), Uuid::new_v4().simple());
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("{name}.{id}")},
        "involvedObject": {
            "apiVersion": about.get("apiVersion"), "kind": about.get("kind"), "name": name, "namespace": namespace,
            "uid": object::uid(about),
        },
        "type": level, "reason": reason, "message": message, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now, "source": {"component": component},
    });
    // There may be no such namespace any more, and then nobody to read it.
    let options = WriteOptions::default();
    let _ = write::create(store, events, namespace, event, &options);
}

/// Notes a warning, once: what looks again at every change would say it again at every change.
pub(crate) fn warn_once(
    store: &mut Store,
    about: &Value,
    component: &str,
    reason: &str,
    message: &str,
) {
    let Some(events) = named("events") else {
        return;
    };
    let is_same = |event: &Value| {
        text(event, "/involvedObject/uid") == object::uid(about)
            && text(event, "/reason") == reason
            && text(event, "/message") == message
    };
    let is_known = store
        .list(events, Some(object::namespace(about)))
        .any(|(_, event)| is_same(event));
    if !is_known {
        note(store, about, component, Level::Warning, reason, message);
    }
}
