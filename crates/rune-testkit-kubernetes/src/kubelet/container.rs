//! One container of a pod: started, probed, and started again.

use std::time::Duration;

use serde_json::Value;

use super::config::{self, Volumes};
use super::pod::PodTask;
use super::probe::{Probes, Seen};
use super::runtime::{ContainerRequest, Running, StartFailure};
use super::status::{self, ContainerState};
use super::surroundings::Hosts;
use crate::object::{self, list, text};

/// The volume with the token of a pod's account, whose name no volume of a pod can have.
const TOKEN_VOLUME: &str = ".token";
/// Longest pause before a container starts again.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// Which containers of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Init,
    Main,
}

impl Kind {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Init => "/spec/initContainers",
            Self::Main => "/spec/containers",
        }
    }
}

/// Runs a container until it is finished or its pod is deleted.
pub(super) async fn run_container(task: &PodTask, kind: Kind, at: usize, volumes: &Volumes) {
    let Some(container) = list(&task.pod, kind.path()).get(at) else {
        return;
    };
    let log = {
        let name = text(container, "/name");
        task.cluster.logs.container(object::uid(&task.pod), name)
    };
    let mut pause = task.node.backoff;
    while !task.ending.is_cancelled() {
        match start(task, kind, at, container, volumes).await {
            Err(failure) => {
                task.warn("Failed", &failure.message);
                let waits = status::waiting(failure.reason, &failure.message);
                task.change(kind, at, |c| c.state = waits);
                if failure.reason == "ErrImagePull" {
                    let why = format!("Back-off pulling image \"{}\"", text(container, "/image"));
                    let waits = status::waiting("ImagePullBackOff", &why);
                    task.change(kind, at, |c| c.state = waits);
                }
            }
            Ok(running) => {
                task.joined(kind, at, running.id(), running.address());
                task.tell(
                    "Started",
                    &format!("Started container {}", text(container, "/name")),
                );
                task.change(kind, at, |c| {
                    c.state = status::running();
                    c.started = false;
                });
                let code = attend(task, kind, at, container, &*running).await;
                running.remove().await;
                log.end();
                if finish(task, kind, at, code) {
                    return;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = task.ending.cancelled() => {}
        }
        pause = (pause * 2).min(MAX_BACKOFF);
    }
    log.end();
}

async fn start(
    task: &PodTask,
    kind: Kind,
    at: usize,
    container: &Value,
    volumes: &Volumes,
) -> Result<Box<dyn Running>, StartFailure> {
    let wrong = |message: String| StartFailure {
        reason: "CreateContainerConfigError",
        message,
    };
    let (cluster, pod) = (&task.cluster, &task.pod);
    let name = text(container, "/name").to_owned();
    // The first runs under the network of nobody, and again under its own.
    let shares = kind == Kind::Main && at > 0;
    let mut env = config::environment(cluster, pod, container).map_err(wrong)?;
    let mut mounts = volumes.mounts(cluster, pod, container).map_err(wrong)?;
    if let Some(api) = &task.api {
        env.extend(api.variables());
        let dir = volumes.dir(TOKEN_VOLUME).map_err(wrong)?;
        mounts.extend(api.token(cluster, pod, &dir).map_err(wrong)?);
    }
    let hosts = Hosts::new(volumes.hosts());
    hosts.write(cluster, pod).map_err(wrong)?;
    mounts.push(hosts.mount());
    let container = config::expanded(container, &env);
    let request = ContainerRequest {
        pod: pod.clone(),
        container,
        env,
        mounts,
        network_of: task.network().filter(|_| shares),
        log: cluster.logs.container(object::uid(pod), &name),
    };
    task.runtime.start(&request).await
}

/// Stays with a container until it has ended; answers its exit code.
async fn attend(
    task: &PodTask,
    kind: Kind,
    at: usize,
    container: &Value,
    running: &dyn Running,
) -> i32 {
    let probes = match Probes::read(container) {
        Ok(probes) => probes,
        Err(error) => {
            task.warn("Unhealthy", &error);
            running.stop(Duration::ZERO).await;
            return running.ended().await;
        }
    };
    let tell = |seen| {
        task.change(kind, at, |c| match seen {
            Seen::Started => c.started = true,
            Seen::Ready(is) => c.ready = is,
        });
    };
    tokio::select! {
        code = running.ended() => code,
        why = probes.run(running.address(), tell) => {
            task.warn("Unhealthy", &why);
            running.stop(own_grace(task)).await;
            running.ended().await
        }
        () = task.ending.cancelled() => {
            running.stop(task.grace()).await;
            running.ended().await
        }
    }
}

fn own_grace(task: &PodTask) -> Duration {
    let grace = task.pod.pointer("/spec/terminationGracePeriodSeconds");
    Duration::from_secs(grace.and_then(Value::as_u64).unwrap_or(30))
}

/// Notes that a container has ended; answers whether it stays so.
fn finish(task: &PodTask, kind: Kind, at: usize, code: i32) -> bool {
    let ended = status::terminated(code);
    let restarts = match (text(&task.pod, "/spec/restartPolicy"), kind) {
        ("Never", _) => false,
        ("OnFailure", _) | (_, Kind::Init) => code != 0,
        _ => true,
    };
    let stays = !restarts || task.ending.is_cancelled();
    task.change(kind, at, |c| {
        *c = ContainerState {
            ready: false,
            started: false,
            ..c.clone()
        };
        if stays {
            c.state = ended;
            c.finished = Some(code);
            return;
        }
        c.restarts += 1;
        c.last = ended;
        let why = "back-off restarting failed container";
        c.state = status::waiting("CrashLoopBackOff", why);
    });
    if !stays {
        task.warn("BackOff", "Back-off restarting failed container");
    }
    stays
}
