//! An engine for the length of a command: in a directory that is thrown away, with agents that are used where they lie.

mod caller;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rune_env::Config;
use rune_mcp::McpClient;
use rune_runtime::{Agent, AgentError, Replica};
use rune_spec::AgentPackage;
use rune_storage::create_private_dir;
use rune_store_runtime::{
    ApplyDeployment, DeploymentId, PublishVersion, ReplicaId, ScaleBounds, SpilledOutput,
    StoreError, VersionId,
};
use rune_tools::{Diagnostics, Launcher};
use serde_json::Value;
use tempfile::TempDir;

use super::validate::invalid;
use crate::cli::Target;
use crate::context::Context;
use crate::daemon::node::{Node, Place};
use crate::daemon::telemetry;
use crate::failure::{Exit, Failure, Outcome, chain};

pub(crate) use caller::{call, caller, offline, tool_named};

/// How long what requests leave to be cleaned up is waited for.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// An engine on a store that is thrown away, and what runs on it.
pub(crate) struct Embedded<'a> {
    context: &'a Context,
    pub(crate) node: Node,
    /// Those with connections to end.
    agents: Vec<Arc<Agent>>,
    /// Removed when everything else is gone.
    _dir: TempDir,
}

impl<'a> Embedded<'a> {
    /// An engine whose agents have their own workspaces.
    pub(crate) fn open(context: &'a Context) -> Outcome<Self> {
        let dir = temporary()?;
        Self::with(context, &context.config, dir)
    }

    /// An engine whose workspaces are thrown away, too: what tools do is not the agents' own.
    pub(crate) fn apart(context: &'a Context) -> Outcome<Self> {
        let dir = temporary()?;
        let mut config = context.config.clone();
        config.runtime.workspace_dir = dir.path().join("workspaces");
        Self::with(context, &config, dir)
    }

    fn with(context: &'a Context, config: &Config, dir: TempDir) -> Outcome<Self> {
        let node = Node::open(config, &Place::temporary(config, dir.path())?)?;
        Ok(Self {
            context,
            node,
            agents: Vec::new(),
            _dir: dir,
        })
    }

    /// Has what tools write to standard error told to somebody. Before agents are made.
    pub(crate) fn listen(&mut self, listener: Arc<dyn Fn(&str) + Send + Sync>) {
        if let Some(loader) = Arc::get_mut(&mut self.node.loader) {
            loader.diagnostics = Diagnostics::to(listener);
        }
    }

    /// Lets agents be made whose variables and servers this machine does not know, where nothing of them leaves the process:
    /// a key that is not there is not missed. Before agents are made.
    pub(crate) fn forgive_missing_variables(&mut self) {
        if let Some(loader) = Arc::get_mut(&mut self.node.loader) {
            let config = self.context.config.clone();
            loader.variables =
                Arc::new(move |name| Some(config.variable(name).unwrap_or_default()));
            // No server is asked; that it has a URL is all that matters.
            let nowhere = Arc::new(|_: &str| Some("http://localhost/".to_owned()));
            loader.mcp = McpClient::new("", Launcher::Direct, nowhere);
        }
    }

    /// The agent of a package. It is ended with the engine.
    pub(crate) fn make(
        &mut self,
        package: AgentPackage,
        namespace: &str,
        env: &BTreeMap<String, String>,
    ) -> Outcome<Arc<Agent>> {
        let made = self.node.loader.make(package, namespace, env);
        let made = made.map_err(|error| self.cannot_run(&error))?;
        Ok(self.keep(made))
    }

    /// Deploys the agent of a package; `dir` is what messages call it.
    pub(crate) async fn deploy(
        &mut self,
        dir: &Path,
        package: AgentPackage,
        target: &Target,
        env: &BTreeMap<String, String>,
    ) -> Outcome<Arc<Agent>> {
        let agent = self.make(package, &target.namespace, env)?;
        self.serve(dir, agent, target).await
    }

    /// Deploys the agent of a package in the form in which it is called by [`call`]. The package is one of [`caller()`].
    pub(crate) async fn deploy_caller(
        &mut self,
        dir: &Path,
        package: AgentPackage,
        target: &Target,
        env: &BTreeMap<String, String>,
    ) -> Outcome<Arc<Agent>> {
        let made = self.node.loader.make(package, &target.namespace, env);
        let made = made.and_then(Agent::led_by_commands);
        let made = made.map_err(|error| self.cannot_run(&error))?;
        let agent = self.keep(made);
        self.serve(dir, agent, target).await
    }

    fn keep(&mut self, agent: Agent) -> Arc<Agent> {
        let agent = Arc::new(agent);
        self.agents.push(Arc::clone(&agent));
        agent
    }

    fn cannot_run(&self, error: &AgentError) -> Failure {
        match error {
            AgentError::Spec(errors) => invalid(self.context.output, errors),
            error => Failure::usage(format!("the agent cannot run: {}", chain(error))),
        }
    }

    /// Takes requests for an agent.
    async fn serve(&self, dir: &Path, agent: Arc<Agent>, target: &Target) -> Outcome<Arc<Agent>> {
        agent
            .prepare()
            .await
            .map_err(|error| self.cannot_run(&error))?;
        make_workspace(&agent)?;
        agent.connect().await.map_err(|error| {
            let help = format!("`rune mcp test {}` shows its servers", dir.display());
            Failure::new(Exit::Unavailable, chain(&error)).help(help)
        })?;
        let (node, spec) = (&self.node, agent.spec());
        let name = spec.name.as_str().to_owned();
        let publish = PublishVersion {
            version_id: VersionId::generate(),
            agent: name.clone(),
            version: spec.version.to_string(),
            description: spec.description.clone().unwrap_or_default(),
            // The package is used where it lies and never stored.
            digest: rune_spec::package::digest(&[]),
            size: 0,
            image: None,
            scaling: ScaleBounds::default(),
            signature: None,
        };
        let version = node.store.write(publish).await;
        let version = version.map_err(|error| store_failure(&error))?;
        let apply = ApplyDeployment {
            deployment_id: DeploymentId::generate(),
            namespace: target.namespace.clone(),
            agent: name,
            alias: target.alias.clone(),
            version_id: version.id,
            replicas: Some(1),
            env: BTreeMap::new(),
            project: None,
        };
        let deployment = node.store.write(apply).await;
        let deployment = deployment.map_err(|error| store_failure(&error))?;
        let replica = Replica::local(
            ReplicaId::generate(),
            deployment.id,
            version.id,
            Arc::clone(&agent),
        );
        node.router.set_deployment(deployment);
        node.router.add_replica(replica);
        Ok(agent)
    }

    /// The whole of an output of which a model is shown a part.
    pub(crate) async fn spilled(&self, spilled: &SpilledOutput) -> Outcome<Value> {
        let text = self.node.blobs.get(&spilled.digest).await;
        let text = text.map_err(|error| Failure::because("cannot read the output", &error))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Ends everything that runs on it: servers that are processes, containers, requests.
    pub(crate) async fn close(self) {
        // What still runs has nobody left to run for.
        self.node.engine.drain(Duration::ZERO).await;
        for agent in &self.agents {
            agent.disconnect().await;
        }
        self.node.tasks.stop(STOP_GRACE).await;
        // The store is thrown away: whether it closes well does not matter.
        let _ = self.node.database.close().await;
    }
}

/// Says what an engine of a command logs: nothing, unless details are wanted.
pub(crate) fn quiet(context: &Context) -> Outcome<()> {
    telemetry::start(&telemetry::quiet(context.verbose), None)
}

/// Where agents are that are not deployed anywhere else.
pub(crate) fn target() -> Target {
    Target {
        namespace: "dev".to_owned(),
        alias: "stable".to_owned(),
    }
}

/// The directory in which the tools of an agent work.
pub(crate) fn make_workspace(agent: &Agent) -> Outcome<()> {
    create_private_dir(agent.workspace()).map_err(|error| {
        let what = format!("cannot make the workspace {}", agent.workspace().display());
        Failure::because(what, &error)
    })
}

/// The agent in a directory, with what is wrong with it printed.
pub(crate) fn load(context: &Context, dir: &Path) -> Outcome<AgentPackage> {
    AgentPackage::load(dir).map_err(|errors| invalid(context.output, &errors))
}

/// The store of an engine of a command has failed.
pub(crate) fn store_failure(error: &StoreError) -> Failure {
    Failure::because("cannot use the temporary store", error)
}

fn temporary() -> Outcome<TempDir> {
    let dir = tempfile::Builder::new().prefix("rune-").tempdir();
    dir.map_err(|error| Failure::because("cannot make a temporary directory", &error))
}
