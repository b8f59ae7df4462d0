//! One container, from its making to its end.

use std::time::Duration;

use bollard::container::AttachContainerResults;
use bollard::models::{ContainerCreateBody, ContainerState};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, StatsOptionsBuilder,
};
use futures_util::StreamExt;
use tokio::time::timeout;
use uuid::Uuid;

use crate::DockerError;
use crate::engine::{DockerEngine, status};

/// Longest time the engine may take to kill a container that is over its time; what takes longer goes on in the background.
const KILL_GRACE: Duration = Duration::from_millis(600);

/// A container that is removed when this is dropped.
pub(crate) struct Container {
    engine: DockerEngine,
    name: String,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody was asked to make it.
    Planned,
    /// Whether it exists is not known.
    Asked,
    Made,
    Running,
    Ended,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Time of all its processors.
    pub(crate) processor: Duration,
    /// Processes and threads.
    pub(crate) processes: u64,
}

impl Container {
    pub(crate) fn new(engine: &DockerEngine) -> Self {
        Self {
            engine: engine.clone(),
            name: format!("rune-tool-{}", Uuid::now_v7()),
            state: State::Planned,
        }
    }

    /// Makes it. `image` is what it is called in an error.
    pub(crate) async fn create(
        &mut self,
        body: ContainerCreateBody,
        image: &str,
    ) -> Result<(), DockerError> {
        let docker = self.engine.client().await?;
        let options = CreateContainerOptionsBuilder::default()
            .name(&self.name)
            .build();
        self.state = State::Asked;
        let created = docker.create_container(Some(options), body).await;
        let created = created.map_err(|error| match status(&error) {
            Some(404) => DockerError::NoImage(image.to_owned()),
            _ => self.engine.error("make a container", &error),
        })?;
        self.state = State::Made;
        for warning in created.warnings {
            tracing::debug!(container = self.name, warning, "the engine warns");
        }
        Ok(())
    }

    /// The streams of its first process.
    pub(crate) async fn attach(&self) -> Result<AttachContainerResults, DockerError> {
        let options = AttachContainerOptionsBuilder::default()
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .stream(true)
            .build();
        let docker = self.engine.client().await?;
        let attached = docker.attach_container(&self.name, Some(options)).await;
        attached.map_err(|error| self.engine.error("attach to a container", &error))
    }

    pub(crate) async fn start(&mut self) -> Result<(), DockerError> {
        let docker = self.engine.client().await?;
        self.state = State::Running;
        let started = docker.start_container(&self.name, None).await;
        started.map_err(|error| self.engine.error("start the container", &error))
    }

    /// What the engine knows of it.
    pub(crate) async fn inspect(&self) -> Result<ContainerState, DockerError> {
        let docker = self.engine.client().await?;
        let found = docker.inspect_container(&self.name, None).await;
        let found = found.map_err(|error| self.engine.error("look at a container", &error))?;
        Ok(found.state.unwrap_or_default())
    }

    /// Returns once it has ended.
    pub(crate) async fn ended(&self) -> Result<(), DockerError> {
        use bollard::errors::Error as Answer;
        let docker = self.engine.client().await?;
        let mut wait = Box::pin(docker.wait_container(&self.name, None));
        match wait.next().await {
            Some(Ok(_) | Err(Answer::DockerContainerWaitError { .. })) => Ok(()),
            Some(Err(error)) => Err(self.engine.error("wait for a container", &error)),
            None => Err(DockerError::Refused {
                action: "wait for a container",
                reason: "it closed the connection".to_owned(),
            }),
        }
    }

    /// Tells `see` what it uses, about once a second, until that answers `true`. Never returns where the engine does not
    /// say.
    pub(crate) async fn watch(&self, mut see: impl FnMut(Usage) -> bool) {
        if let Ok(docker) = self.engine.client().await {
            let options = StatsOptionsBuilder::default().stream(true).build();
            let mut stats = Box::pin(docker.stats(&self.name, Some(options)));
            while let Some(Ok(sample)) = stats.next().await {
                let processor = sample.cpu_stats.and_then(|stats| stats.cpu_usage);
                let processor = processor.and_then(|usage| usage.total_usage);
                let processes = sample.pids_stats.and_then(|stats| stats.current);
                let usage = Usage {
                    processor: Duration::from_nanos(processor.unwrap_or_default()),
                    processes: processes.unwrap_or_default(),
                };
                if see(usage) {
                    return;
                }
            }
        }
        std::future::pending::<()>().await;
    }

    /// Says that there is nothing left to kill.
    pub(crate) fn has_ended(&mut self) {
        self.state = State::Ended;
    }

    /// Kills it, where it runs. Removing it would do so too, but takes longer.
    pub(crate) async fn kill(&mut self) {
        if self.state != State::Running {
            return;
        }
        let kill = async {
            let docker = self.engine.client().await?;
            let killed = docker.kill_container(&self.name, None).await;
            killed.map_err(|error| self.engine.error("kill a container", &error))
        };
        match timeout(KILL_GRACE, kill).await {
            Ok(Ok(())) => self.state = State::Ended,
            Ok(Err(error)) => tracing::debug!(container = self.name, %error, "it is removed"),
            Err(_) => tracing::debug!(container = self.name, "killing it takes long"),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.state != State::Planned {
            let exists = self.state != State::Asked;
            self.engine.remove(std::mem::take(&mut self.name), exists);
        }
    }
}
