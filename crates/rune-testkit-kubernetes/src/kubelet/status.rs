//! The status of a pod, from how its containers are.

use serde_json::{Value, json};

use crate::object::{self, list, text};

/// How a container is.
#[derive(Debug, Clone)]
pub(super) struct ContainerState {
    /// `waiting`, `running` or `terminated`, and what belongs to it.
    pub(super) state: Value,
    pub(super) last: Value,
    pub(super) ready: bool,
    pub(super) started: bool,
    pub(super) restarts: u32,
    /// Whether it runs no more.
    pub(super) finished: Option<i32>,
}

impl Default for ContainerState {
    fn default() -> Self {
        Self {
            state: waiting("ContainerCreating", ""),
            last: json!({}),
            ready: false,
            started: false,
            restarts: 0,
            finished: None,
        }
    }
}

pub(super) fn waiting(reason: &str, message: &str) -> Value {
    json!({"waiting": {"reason": reason, "message": message}})
}

pub(super) fn running() -> Value {
    json!({"running": {"startedAt": object::now()}})
}

pub(super) fn terminated(code: i32) -> Value {
    let reason = if code == 0 { "Completed" } else { "Error" };
    json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": object::now()}})
}

/// Writes the status of a pod. `init` and `containers` are in the order of the specification.
pub(super) fn write(
    pod: &mut Value,
    init: &[ContainerState],
    containers: &[ContainerState],
    address: &str,
) {
    let is_initialized = init.iter().all(|c| c.finished == Some(0));
    let is_ready = !containers.is_empty() && containers.iter().all(|c| c.ready);
    for (kind, is) in [
        ("Initialized", is_initialized),
        ("ContainersReady", is_ready),
        ("Ready", is_ready && !object::is_deleting(pod)),
    ] {
        let status = if is { "True" } else { "False" };
        set_condition(pod, json!({"type": kind, "status": status}));
    }
    let phase = phase(init, containers);
    for (field, states, spec) in [
        ("initContainerStatuses", init, "/spec/initContainers"),
        ("containerStatuses", containers, "/spec/containers"),
    ] {
        let statuses: Vec<Value> = list(pod, spec)
            .iter()
            .zip(states)
            .map(|(container, is)| status(container, is))
            .collect();
        if !statuses.is_empty() {
            object::set(pod, &["status", field], statuses);
        }
    }
    object::set(pod, &["status", "phase"], phase);
    object::set(pod, &["status", "hostIP"], "127.0.0.1");
    object::set_default(pod, &["status", "startTime"], object::now());
    if !address.is_empty() {
        object::set(pod, &["status", "podIP"], address);
        object::set(pod, &["status", "podIPs"], json!([{"ip": address}]));
    }
}

fn phase(init: &[ContainerState], containers: &[ContainerState]) -> &'static str {
    let all = |code: fn(i32) -> bool| containers.iter().all(|c| c.finished.is_some_and(code));
    if containers.is_empty()
        || init
            .iter()
            .any(|c| c.finished.is_some_and(|code| code != 0))
    {
        "Failed"
    } else if all(|code| code == 0) {
        "Succeeded"
    } else if all(|_| true) {
        "Failed"
    } else if containers
        .iter()
        .any(|c| c.state.get("running").is_some() || c.restarts > 0)
    {
        "Running"
    } else {
        "Pending"
    }
}

fn status(container: &Value, is: &ContainerState) -> Value {
    json!({
        "name": text(container, "/name"), "image": text(container, "/image"), "imageID": "",
        "ready": is.ready, "started": is.started, "restartCount": is.restarts,
        "state": is.state, "lastState": is.last,
    })
}

/// Puts a condition in the place of one of its type; its time moves only when its status does.
pub(super) fn set_condition(pod: &mut Value, mut condition: Value) {
    let mut conditions = list(pod, "/status/conditions").to_vec();
    let kind = text(&condition, "/type").to_owned();
    let at = conditions.iter().position(|c| text(c, "/type") == kind);
    let before = at.and_then(|at| conditions.get(at));
    let same = before.filter(|before| before.get("status") == condition.get("status"));
    let since = same.map_or_else(object::now, |c| text(c, "/lastTransitionTime").to_owned());
    object::set(&mut condition, &["lastTransitionTime"], since);
    match at.and_then(|at| conditions.get_mut(at)) {
        Some(place) => *place = condition,
        None => conditions.push(condition),
    }
    object::set(pod, &["status", "conditions"], conditions);
}
