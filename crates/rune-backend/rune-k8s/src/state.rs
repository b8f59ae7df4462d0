//! How a pod is, as the reconcile loop and a person see it.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use rune_backend::ReplicaHealth;

use crate::manifest::PORT;

/// Reasons for which a container waits and that do not pass by themselves.
const HOPELESS: &[&str] = &[
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CrashLoopBackOff",
    "CreateContainerError",
    "RunContainerError",
];

/// How a container ends that is told to: well, or by a signal.
const TOLD: [i32; 3] = [0, 128 + 9, 128 + 15];

/// What was seen of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) health: ReplicaHealth,
    /// Where it answers, once it is ready.
    pub(crate) endpoint: Option<String>,
    /// Why it is not ready yet.
    pub(crate) waits_for: String,
    /// Whether it ends because somebody said so.
    pub(crate) is_deleting: bool,
    /// Whether its container has ended as one does that is told to, which may be because it did not answer its probe.
    pub(crate) was_ended: bool,
}

impl Seen {
    pub(crate) fn of(pod: &Pod) -> Self {
        let is_deleting = pod.metadata.deletion_timestamp.is_some();
        let health = if is_deleting {
            ReplicaHealth::Unhealthy("its pod is being deleted".to_owned())
        } else {
            health(pod)
        };
        let address = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_ref());
        let endpoint = address.map(|address| match address.contains(':') {
            true => format!("http://[{address}]:{PORT}"),
            false => format!("http://{address}:{PORT}"),
        });
        Self {
            endpoint: endpoint.filter(|_| health == ReplicaHealth::Ready),
            health,
            waits_for: waits_for(pod),
            is_deleting,
            was_ended: terminated(pod).is_some_and(|it| TOLD.contains(&it.exit_code)),
        }
    }
}

fn health(pod: &Pod) -> ReplicaHealth {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or("Pending");
    if matches!(phase, "Failed" | "Succeeded") {
        let own = status
            .message
            .or(status.reason)
            .filter(|why| !why.is_empty());
        return ReplicaHealth::Unhealthy(match (own, ended(pod)) {
            (Some(why), _) | (None, Some(why)) => why,
            (None, None) => format!("its pod has ended ({phase})"),
        });
    }
    if let Some(container) = container(pod)
        && let Some(waits) = container
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref())
    {
        let reason = waits.reason.as_deref().unwrap_or_default();
        let message = waits.message.as_deref().unwrap_or_default();
        // A secret that is not there yet comes; that the image runs as root stays.
        let is_root = message.contains("runAsNonRoot");
        if HOPELESS.contains(&reason) || is_root {
            let why = ended(pod).unwrap_or_else(|| message.to_owned());
            return ReplicaHealth::Unhealthy(format!("{reason}: {why}"));
        }
    }
    if is(pod, "Ready") {
        return ReplicaHealth::Ready;
    }
    match container(pod) {
        Some(container) if container.started == Some(true) && was_ready(pod) => {
            let why = "it does not answer its probe at /health";
            ReplicaHealth::Unhealthy(why.to_owned())
        }
        _ => ReplicaHealth::Starting,
    }
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.first()
}

fn terminated(pod: &Pod) -> Option<ContainerStateTerminated> {
    let status = container(pod)?;
    let of = |state: &Option<ContainerState>| state.as_ref().and_then(|s| s.terminated.clone());
    of(&status.state).or_else(|| of(&status.last_state))
}

/// How its container ended, now or the last time.
fn ended(pod: &Pod) -> Option<String> {
    let ended = terminated(pod)?;
    if ended.reason.as_deref() == Some("OOMKilled") {
        let why = "it used more memory than its `resource_profile` gives and was killed";
        return Some(why.to_owned());
    }
    Some(format!(
        "its container has ended with exit code {}",
        ended.exit_code
    ))
}

fn is(pod: &Pod, condition: &str) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c.type_ == condition && c.status == "True")
}

/// Whether its container is past its start and the readiness probe has said no since: the condition moved after the
/// container was running.
fn was_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    let moved = conditions
        .find(|c| c.type_ == "Ready" && c.status == "False")
        .and_then(|c| c.last_transition_time.clone());
    let running =
        container(pod).and_then(|c| c.state.as_ref()?.running.as_ref()?.started_at.clone());
    moved
        .zip(running)
        .is_some_and(|(moved, running)| moved > running)
}

/// What a pod that is not ready waits for, for a person.
fn waits_for(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let unscheduled = conditions
        .into_iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        let reason = condition.reason.unwrap_or_default();
        return format!("{reason}: {}", condition.message.unwrap_or_default());
    }
    let state = container(pod).and_then(|container| container.state.clone());
    match state.and_then(|state| state.waiting) {
        Some(waits) => {
            let reason = waits.reason.unwrap_or_default();
            match waits.message.filter(|message| !message.is_empty()) {
                Some(message) => format!("{reason}: {message}"),
                None => reason,
            }
        }
        None => "it does not answer its probe at /health yet".to_owned(),
    }
}
