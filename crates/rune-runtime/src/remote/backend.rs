//! Puts the replicas of a platform behind the router.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec, Resources};
use rune_spec::ResourceProfile;
use rune_store_runtime::ReplicaId;
use secrecy::SecretString;
use tokio::time::Instant;

use super::client::ReplicaClient;
use super::fingerprint::fingerprint;
use super::protocol::ReplicaStatus;
use crate::agent::{Agent, AgentLoader, ToolRunner};
use crate::model::HttpClient;
use crate::package_cache::PackageCache;
use crate::replica::Replica;
use crate::router::ReplicaRouter;
use crate::secrets::SecretError;
use crate::task::Tasks;

/// Pause before a replica that starts is asked again whether it is ready: a part of the time that it has taken so far, so
/// that little of that is waiting, and within these bounds.
const START_PART: u32 = 32;
const FIRST_LOOK: Duration = Duration::from_millis(1);
const START_LOOK: Duration = Duration::from_millis(50);
/// How often its platform is asked whether it is still there: one that ends does not end at once.
const PLATFORM_LOOK: Duration = Duration::from_millis(250);
/// Pause before a replica of an earlier process is asked again.
const ADOPTION_LOOK: Duration = Duration::from_millis(300);
/// How often a replica that drains is asked whether it still runs something.
const IDLE_LOOK: Duration = Duration::from_millis(200);
/// Lines of a log that are shown where a replica does not start.
const SHOWN_LOG_LINES: usize = 5;
/// How often in a row a replica that is there may fail to answer before it counts as broken.
const MAX_FAILURES: u32 = 3;

/// What a replica and the daemon know each other by.
#[async_trait]
pub trait ReplicaAccess: Send + Sync {
    /// The variables with which a replica finds the daemon and proves which one it is. `fingerprint`
    /// is what the replica repeats when it is asked how it is.
    ///
    /// # Errors
    /// A [`SecretError`] where there is no key to make them with.
    async fn launch(
        &self,
        spec: &ReplicaSpec,
        fingerprint: &str,
    ) -> Result<BTreeMap<String, String>, SecretError>;

    /// What a replica starts from beside its specification, as a value that changes with any of it and tells nothing of it.
    ///
    /// # Errors
    /// What is in the way.
    async fn basis(&self, spec: &ReplicaSpec) -> Result<String, String>;

    /// What proves to a replica that it is the daemon that asks.
    ///
    /// # Errors
    /// A [`SecretError`] where there is no key to make it with.
    async fn key(&self, id: ReplicaId) -> Result<SecretString, SecretError>;
}

/// A [`Backend`] whose replicas are outside this process: the platform starts and stops them,
/// and here they are loaded, asked how they are, and handed to the router.
pub struct RemoteBackend {
    platform: Arc<dyn Backend>,
    access: Arc<dyn ReplicaAccess>,
    loader: Arc<AgentLoader>,
    packages: PackageCache,
    router: ReplicaRouter,
    tasks: Tasks,
    http: HttpClient,
    /// How often in a row a replica did not answer.
    failures: Mutex<HashMap<ReplicaId, u32>>,
}

impl RemoteBackend {
    /// A backend over what a platform runs.
    #[must_use]
    pub fn new(
        platform: Arc<dyn Backend>,
        access: Arc<dyn ReplicaAccess>,
        loader: Arc<AgentLoader>,
        packages: PackageCache,
        router: ReplicaRouter,
        tasks: Tasks,
    ) -> Self {
        Self {
            platform,
            access,
            loader,
            packages,
            router,
            tasks,
            http: HttpClient::direct(),
            failures: Mutex::default(),
        }
    }

    /// The agent as it is known here. Nothing of it is run.
    async fn load(&self, spec: &ReplicaSpec) -> Result<Agent, BackendError> {
        let dir = self.packages.get(&spec.digest).await;
        let dir = dir.map_err(|error| BackendError::Unavailable(error.to_string()))?;
        let loader = Arc::clone(&self.loader);
        let (namespace, env) = (spec.namespace.clone(), spec.env.clone());
        let agent = tokio::task::spawn_blocking(move || loader.load(&dir, &namespace, &env)).await;
        let agent = agent.map_err(|error| BackendError::Unavailable(error.to_string()))?;
        let agent = agent.map_err(|error| BackendError::Invalid(error.to_string()))?;
        match tool_of_two_workspaces(&agent).filter(|_| !self.platform.has_workspaces()) {
            None => Ok(agent),
            Some(tool) => Err(BackendError::Invalid(format!(
                "the container of tool `{tool}` is granted files of the workspace, and runs on the daemon's machine: a \
                 replica of the backend `{}` has another workspace, and would not see what the tool writes; leave \
                 `filesystem` out of its `capabilities`, or run the daemon with another `--backend`",
                self.platform.name()
            ))),
        }
    }

    /// What tells a replica that is as it should be from one that is not.
    async fn fingerprint(&self, spec: &ReplicaSpec) -> Result<String, BackendError> {
        let basis = self.access.basis(spec).await;
        let basis = basis.map_err(BackendError::Unavailable)?;
        Ok(fingerprint(spec, &basis))
    }

    async fn client(
        &self,
        id: ReplicaId,
        endpoint: &str,
        agent: &Agent,
    ) -> Result<ReplicaClient, BackendError> {
        let silence = agent.spec().runtime.request_timeout;
        let key = self.access.key(id).await.map_err(|error| no_key(&error))?;
        let http = self.http.clone();
        Ok(ReplicaClient::new(endpoint, key, http, silence))
    }

    fn serve(
        &self,
        spec: &ReplicaSpec,
        agent: Arc<Agent>,
        client: ReplicaClient,
        status: &ReplicaStatus,
    ) {
        let replica = Replica::remote(
            spec.replica_id,
            spec.deployment_id,
            spec.version_id,
            agent,
            client,
        );
        replica.note(status);
        self.router.add_replica(replica);
    }

    /// Looks for what tools of a replica need that serves already, however long that takes. A call looks for it again.
    fn prepare_beside(&self, id: ReplicaId, agent: Arc<Agent>) {
        let shutdown = self.tasks.shutdown();
        self.tasks.spawn("prepare", async move {
            let prepared = tokio::select! {
                prepared = prepare(&agent) => prepared,
                () = shutdown.cancelled() => return,
            };
            if let Err(error) = prepared {
                tracing::warn!(replica = %id, %error, "tools in containers cannot run");
            }
        });
    }

    /// The last that a replica has logged, for a person.
    async fn last_words(&self, id: ReplicaId) -> String {
        let log = self.platform.logs(id, SHOWN_LOG_LINES).await;
        let log = log.ok().flatten().unwrap_or_default();
        let lines: Vec<&str> = log.lines().map(str::trim).collect();
        lines.join(" | ")
    }

    /// Waits until a replica that was started answers as the one that it should be.
    async fn ready(
        &self,
        spec: &ReplicaSpec,
        client: &ReplicaClient,
    ) -> Result<ReplicaStatus, BackendError> {
        let longest = spec.startup;
        let begun = Instant::now();
        let mut asked = begun;
        loop {
            let why = match client.status().await {
                Ok(status) if status.replica_id == spec.replica_id => return Ok(status),
                Ok(status) => format!("replica `{}` answers there", status.replica_id),
                Err(error) => error.to_string(),
            };
            let taken = begun.elapsed();
            if taken >= longest {
                return Err(BackendError::Unavailable(format!(
                    "the replica was not ready within {} ms (`startup_timeout_ms`): {why}; its log: {}",
                    longest.as_millis(),
                    self.last_words(spec.replica_id).await
                )));
            }
            let pause = (taken / START_PART).clamp(FIRST_LOOK, START_LOOK);
            if asked.elapsed() >= PLATFORM_LOOK {
                asked = Instant::now();
                // One that has ended may have left nothing behind it once that was seen.
                let words = self.last_words(spec.replica_id).await;
                if let Some(why) = self.ended(spec.replica_id).await {
                    return Err(BackendError::Unavailable(format!(
                        "the replica ended before it was ready{why}; its log: {words}"
                    )));
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Why a replica that starts has ended; nothing where it has not, or that is not known.
    async fn ended(&self, id: ReplicaId) -> Option<String> {
        match self.platform.health(id).await {
            Ok(ReplicaHealth::Gone) => Some(String::new()),
            Ok(ReplicaHealth::Unhealthy(why)) => Some(format!(": {why}")),
            Ok(ReplicaHealth::Ready | ReplicaHealth::Starting) | Err(_) => None,
        }
    }

    /// Returns once a replica runs nothing, also nothing that waits for other agents and so has no place on it. What goes on
    /// beside its requests then ends with it.
    async fn runs_nothing(&self, id: ReplicaId, client: &ReplicaClient) {
        loop {
            let is_idle = match client.status().await {
                Ok(status) => {
                    let (is_idle, held) = (status.running.is_empty(), status.held);
                    if is_idle && held > 0 {
                        tracing::info!(replica = %id, held, "processes and pages in a replica end with it");
                    }
                    is_idle
                }
                Err(_) => matches!(
                    self.platform.health(id).await,
                    Ok(ReplicaHealth::Gone | ReplicaHealth::Unhealthy(_))
                ),
            };
            if is_idle {
                return;
            }
            tokio::time::sleep(IDLE_LOOK).await;
        }
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<ReplicaId, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for RemoteBackend {
    fn name(&self) -> &'static str {
        self.platform.name()
    }

    async fn start(&self, spec: &ReplicaSpec) -> Result<Option<String>, BackendError> {
        let agent = self.load(spec).await?;
        prepare(&agent).await?;
        let runtime = &agent.spec().runtime;
        let fingerprint = self.fingerprint(spec).await?;
        let launch = self.access.launch(spec, &fingerprint).await;
        let spec = &ReplicaSpec {
            // What the version says is as it is written; this one has its variables.
            image: runtime.image.clone().or_else(|| spec.image.clone()),
            networks: agent.spec().networks.clone(),
            reaches_out: agent.reaches_out(),
            resources: resources(runtime.resource_profile),
            startup: runtime.startup_timeout,
            launch: launch.map_err(|error| no_key(&error))?,
            ..spec.clone()
        };
        let endpoint = self.platform.start(spec).await?;
        let endpoint = endpoint.ok_or_else(|| {
            BackendError::Unavailable("the platform does not say where the replica is".to_owned())
        })?;
        let client = self.client(spec.replica_id, &endpoint, &agent).await?;
        let status = self.ready(spec, &client).await?;
        self.serve(spec, Arc::new(agent), client, &status);
        Ok(Some(endpoint))
    }

    async fn adopt(&self, spec: &ReplicaSpec, endpoint: &str) -> Result<bool, BackendError> {
        let agent = self.load(spec).await?;
        let client = self.client(spec.replica_id, endpoint, &agent).await?;
        let mut tries = 1;
        let status = loop {
            match client.status().await {
                Ok(status) => break status,
                Err(error) if tries >= MAX_FAILURES => {
                    return Err(BackendError::Unavailable(error.to_string()));
                }
                Err(_) => tokio::time::sleep(ADOPTION_LOOK).await,
            }
            tries += 1;
        };
        let is_same = status.replica_id == spec.replica_id
            && status.deployment_id == spec.deployment_id
            && status.fingerprint == self.fingerprint(spec).await?
            && !status.draining;
        if is_same {
            let agent = Arc::new(agent);
            self.serve(spec, Arc::clone(&agent), client, &status);
            self.prepare_beside(spec.replica_id, agent);
        }
        Ok(is_same)
    }

    async fn health(&self, id: ReplicaId) -> Result<ReplicaHealth, BackendError> {
        let health = self.platform.health(id).await?;
        let Some(replica) = self.router.replica(id) else {
            return Ok(health);
        };
        if health == ReplicaHealth::Gone {
            self.failures().remove(&id);
            self.router.remove_replica(replica.deployment_id(), id);
        }
        let Some(client) = replica.client().filter(|_| health == ReplicaHealth::Ready) else {
            return Ok(health);
        };
        match client.status().await {
            // Somebody else has told it to end, or has seen that it does.
            Ok(status) if status.draining || replica.is_draining() => {
                replica.drain();
                Ok(ReplicaHealth::Unhealthy("it takes nothing new".to_owned()))
            }
            Ok(status) => {
                replica.note(&status);
                self.failures().remove(&id);
                Ok(ReplicaHealth::Ready)
            }
            Err(error) => {
                let mut failures = self.failures();
                let count = failures.entry(id).or_default();
                *count += 1;
                if *count < MAX_FAILURES {
                    return Ok(ReplicaHealth::Ready);
                }
                failures.remove(&id);
                Ok(ReplicaHealth::Unhealthy(error.to_string()))
            }
        }
    }

    async fn drain(&self, id: ReplicaId, grace: Duration) -> Result<bool, BackendError> {
        let Some(replica) = self.router.replica(id) else {
            return self.platform.drain(id, grace).await;
        };
        replica.drain();
        if let Some(client) = replica.client()
            && let Err(error) = client.drain().await
        {
            tracing::debug!(replica = %id, %error, "replica was not told to drain");
        }
        let idle = async {
            replica.idle().await;
            if let Some(client) = replica.client() {
                self.runs_nothing(id, client).await;
            }
        };
        Ok(tokio::time::timeout(grace, idle).await.is_ok())
    }

    async fn stop(&self, id: ReplicaId) -> Result<(), BackendError> {
        if let Some(replica) = self.router.replica(id) {
            self.router.remove_replica(replica.deployment_id(), id);
        }
        self.failures().remove(&id);
        self.platform.stop(id).await
    }

    async fn logs(&self, id: ReplicaId, lines: usize) -> Result<Option<String>, BackendError> {
        self.platform.logs(id, lines).await
    }

    async fn list(&self) -> Result<Vec<ReplicaId>, BackendError> {
        self.platform.list().await
    }
}

/// Looks for what this process needs to run tools for the replica: images, and the workspace that containers see.
async fn prepare(agent: &Agent) -> Result<(), BackendError> {
    if !agent.tools().any(|(_, tool)| tool.needs_docker()) {
        return Ok(());
    }
    agent.prepare().await.map_err(|error| {
        let message = error.to_string();
        if error.is_transient() {
            BackendError::Unavailable(message)
        } else {
            BackendError::Invalid(message)
        }
    })?;
    let workspace = agent.workspace();
    tokio::fs::create_dir_all(workspace).await.map_err(|error| {
        let workspace = workspace.display();
        BackendError::Unavailable(format!("cannot create workspace {workspace}: {error}"))
    })
}

/// What a profile stands for.
fn resources(profile: ResourceProfile) -> Resources {
    Resources {
        cpus: profile.cpus(),
        memory_mib: profile.memory_mib(),
    }
}

fn no_key(error: &SecretError) -> BackendError {
    BackendError::Unavailable(format!("replicas cannot be told who asks: {error}"))
}

/// The first tool whose container would see other files of the workspace than the replica does.
fn tool_of_two_workspaces(agent: &Agent) -> Option<&str> {
    let mut tools = agent.tools().map(|(_, tool)| tool);
    let found = tools.find(|tool| match &tool.runner {
        ToolRunner::Container(container) => container.sees_workspace(),
        ToolRunner::Builtin(_)
        | ToolRunner::Process(_)
        | ToolRunner::Wasm(_)
        | ToolRunner::Agent(_)
        | ToolRunner::Mcp(_) => false,
    });
    found.map(|tool| tool.name.as_str())
}
