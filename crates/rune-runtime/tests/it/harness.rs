//! An engine over a store that can be watched, held up and broken, with one agent.

mod blobs;
mod bot;
mod spy;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rune_docker::DockerEngine;
use rune_mcp::McpClient;
use rune_runtime::model::{Prices, ProviderPool, Timeouts};
use rune_runtime::{
    Agent, AgentLoader, Engine, Invocation, Invoked, Replica, ReplicaRouter, RequestEvent,
    SecretVault, SequencedEvent, Tasks,
};
use rune_store_runtime::{
    ApplyDeployment, DeploymentId, DeploymentRow, Entry, EntryBody, PublishVersion, ReplicaId,
    RequestId, RequestRow, ScaleBounds, SessionId, Store, SystemClock, VersionId,
};
use rune_tools::{Builtins, BuiltinsConfig, Diagnostics, Launcher, ProcessRunner};
use rune_wasm::{WasmConfig, WasmRuntime};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use blobs::MemoryBlobs;
pub(crate) use bot::Bot;
pub(crate) use spy::{Spy, copy};

/// Nothing that ends takes longer, on the busiest machine.
pub(crate) const HANG: Duration = Duration::from_secs(20);

/// Fails the test where `work` hangs.
pub(crate) async fn soon<F: Future>(what: &str, work: F) -> F::Output {
    match tokio::time::timeout(HANG, work).await {
        Ok(output) => output,
        Err(_) => panic!("{what} hangs"),
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// An engine with one agent and its replicas.
pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) router: ReplicaRouter,
    pub(crate) spy: Arc<Spy>,
    pub(crate) store: Store,
    pub(crate) tasks: Tasks,
    pub(crate) deployment: DeploymentRow,
    pub(crate) agent: Arc<Agent>,
    others: Vec<(DeploymentRow, Arc<Agent>)>,
    home: Arc<TempDir>,
    blobs: Arc<MemoryBlobs>,
}

/// A request that has ended.
pub(crate) struct Ended {
    pub(crate) row: RequestRow,
    pub(crate) events: Vec<SequencedEvent>,
    pub(crate) journal: Vec<Entry>,
}

/// Prices of the catalogue and of the models that tests ask.
pub(crate) fn prices() -> Prices {
    let mut prices = Prices::default();
    let models = "[models]\ntest-model = { input = 1, output = 2 }";
    prices.add("the test", models).unwrap();
    prices
}

pub(crate) fn loader(home: &std::path::Path) -> AgentLoader {
    let runner = ProcessRunner::new(BuiltinsConfig::default().search_path);
    AgentLoader {
        providers: rune_env::ProvidersConfig {
            anthropic_api_key: None,
            anthropic_base_url: String::new(),
            claude_api_key: None,
            gemini_api_key: None,
            gemini_base_url: String::new(),
            gemini_model: None,
            copilot_token: None,
            copilot_base_url: None,
            github_api_base_url: String::new(),
            openai_api_key: None,
            openai_base_url: String::new(),
            openai_model: None,
            limits: BTreeMap::new(),
        },
        timeouts: Timeouts {
            first_byte: Duration::from_secs(20),
            idle: Duration::from_secs(20),
            progress: Duration::from_secs(20),
        },
        pool: ProviderPool::new(BTreeMap::new(), prices(), None),
        builtins: Builtins::new(BuiltinsConfig::default()),
        runner,
        variables: Arc::new(|_| None),
        secrets: SecretVault::empty(),
        wasm: WasmRuntime::new(WasmConfig::default()),
        mcp: McpClient::new("/usr/bin:/bin", Launcher::Direct, Arc::new(|_| None)),
        docker: DockerEngine::absent(),
        remotes: rune_tools::RemoteAgents::default(),
        workspaces: home.join("workspaces"),
        diagnostics: Diagnostics::default(),
    }
}

impl Rig {
    /// One replica of `bot`.
    pub(crate) async fn new(bot: Bot) -> Self {
        Self::with_loader(bot, |_| ()).await
    }

    /// As [`Rig::new`], with other limits.
    pub(crate) async fn with_loader(bot: Bot, edit: impl Fn(&mut AgentLoader)) -> Self {
        let home = Arc::new(TempDir::new().unwrap());
        let package = home.path().join("package");
        bot.write(&package);
        let mut loader = loader(home.path());
        edit(&mut loader);
        let agent = loader.load(&package, "dev", &BTreeMap::new()).unwrap();
        std::fs::create_dir_all(agent.workspace()).unwrap();
        let tasks = Tasks::new();
        let spy = Spy::new(&tasks);
        let store = Store::new(Arc::clone(&spy) as Arc<_>, Arc::new(SystemClock));
        let version_id = VersionId::generate();
        let version = PublishVersion {
            version_id,
            agent: "bot".to_owned(),
            version: "0.1.0".to_owned(),
            description: String::new(),
            digest: format!("sha256:{}", "0".repeat(64)),
            size: 1,
            image: None,
            scaling: ScaleBounds::default(),
            signature: None,
        };
        store.write(version).await.unwrap();
        let deployment = ApplyDeployment {
            deployment_id: DeploymentId::generate(),
            namespace: "dev".to_owned(),
            agent: "bot".to_owned(),
            alias: "stable".to_owned(),
            version_id,
            replicas: Some(1),
            env: BTreeMap::new(),
            project: None,
        };
        let deployment = store.write(deployment).await.unwrap();
        spy.reset();
        let blobs = Arc::default();
        let rig = Self::over(spy, store, tasks, deployment, Arc::new(agent), home, blobs);
        rig.add_replica();
        rig
    }

    fn over(
        spy: Arc<Spy>,
        store: Store,
        tasks: Tasks,
        deployment: DeploymentRow,
        agent: Arc<Agent>,
        home: Arc<TempDir>,
        blobs: Arc<MemoryBlobs>,
    ) -> Self {
        let router = ReplicaRouter::new();
        router.set_deployment(deployment.clone());
        Self {
            engine: Engine::new(store.clone(), router.clone(), tasks.clone())
                .with_blobs(Arc::clone(&blobs) as Arc<_>),
            router,
            spy,
            store,
            tasks,
            deployment,
            agent,
            others: Vec::new(),
            home,
            blobs,
        }
    }

    /// Deploys another agent beside the first, with one replica.
    pub(crate) async fn deploy(&mut self, name: &str, bot: Bot) {
        let package = self.home.path().join(name);
        bot.set("name", name.into()).write(&package);
        let agent = loader(self.home.path()).load(&package, "dev", &BTreeMap::new());
        let agent = Arc::new(agent.unwrap());
        std::fs::create_dir_all(agent.workspace()).unwrap();
        let deployment = ApplyDeployment {
            deployment_id: DeploymentId::generate(),
            namespace: "dev".to_owned(),
            agent: name.to_owned(),
            alias: "stable".to_owned(),
            version_id: self.publish(name).await,
            replicas: Some(1),
            env: BTreeMap::new(),
            project: None,
        };
        let deployment = self.store.write(deployment).await.unwrap();
        self.others.push((deployment, agent));
        self.start_other(self.others.len() - 1);
        self.spy.reset();
    }

    async fn publish(&self, name: &str) -> VersionId {
        let version = PublishVersion {
            version_id: VersionId::generate(),
            agent: name.to_owned(),
            version: "0.1.0".to_owned(),
            description: String::new(),
            digest: format!("sha256:{}", "0".repeat(64)),
            size: 1,
            image: None,
            scaling: ScaleBounds::default(),
            signature: None,
        };
        self.store.write(version).await.unwrap().id
    }

    fn start_other(&self, index: usize) {
        let (deployment, agent) = &self.others[index];
        self.router.set_deployment(deployment.clone());
        let replica = Replica::local(
            ReplicaId::generate(),
            deployment.id,
            deployment.version_id,
            Arc::clone(agent),
        );
        self.router.add_replica(replica);
    }

    /// The others of `self` run beside the first agent of `rig` too.
    fn with_others(&self, mut rig: Self) -> Self {
        rig.others.clone_from(&self.others);
        for index in 0..rig.others.len() {
            rig.start_other(index);
        }
        rig
    }

    /// A new engine over the same store.
    pub(crate) fn restarted(&self) -> Self {
        let (spy, store) = (Arc::clone(&self.spy), self.store.clone());
        let rig = Self::over(
            spy,
            store,
            Tasks::new(),
            self.deployment.clone(),
            Arc::clone(&self.agent),
            Arc::clone(&self.home),
            Arc::clone(&self.blobs),
        );
        rig.add_replica();
        self.with_others(rig)
    }

    /// A new engine with this agent over what another one has stored.
    pub(crate) fn over_the_data_of(&self, other: &Self) -> Self {
        let rig = Self::over(
            Arc::clone(&other.spy),
            other.store.clone(),
            Tasks::new(),
            other.deployment.clone(),
            Arc::clone(&self.agent),
            Arc::clone(&self.home),
            Arc::clone(&other.blobs),
        );
        rig.add_replica();
        rig
    }

    /// A new engine over a store that has only the first `len` entries of a request.
    pub(crate) async fn cut(&self, row: &RequestRow, journal: &[Entry], len: usize) -> Self {
        let tasks = Tasks::new();
        let spy = Spy::new(&tasks);
        let store = Store::new(Arc::clone(&spy) as Arc<_>, Arc::new(SystemClock));
        spy::copy(&store, row, &journal[..len]).await;
        spy.reset();
        let (deployment, agent) = (self.deployment.clone(), Arc::clone(&self.agent));
        let (home, blobs) = (Arc::clone(&self.home), Arc::clone(&self.blobs));
        let rig = Self::over(spy, store, tasks, deployment, agent, home, blobs);
        rig.add_replica();
        self.with_others(rig)
    }

    pub(crate) fn add_replica(&self) -> Arc<Replica> {
        let (id, version) = (self.deployment.id, self.deployment.version_id);
        let agent = Arc::clone(&self.agent);
        let replica = Replica::local(ReplicaId::generate(), id, version, agent);
        self.router.add_replica(Arc::clone(&replica));
        replica
    }

    /// A file of the agent's workspace; empty where there is none.
    pub(crate) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.agent.workspace().join(name)).unwrap_or_default()
    }

    pub(crate) fn write_file(&self, name: &str, text: &str) {
        std::fs::write(self.agent.workspace().join(name), text).unwrap();
    }

    pub(crate) fn forget_file(&self, name: &str) {
        let _ = std::fs::remove_file(self.agent.workspace().join(name));
    }

    pub(crate) async fn invoke(&self, input: &str) -> Invoked {
        soon("invoke", self.engine.invoke(call(input)))
            .await
            .unwrap()
    }

    pub(crate) async fn invoke_in(&self, session: &SessionId, input: &str) -> Invoked {
        let invocation = Invocation {
            session_id: Some(session.clone()),
            ..call(input)
        };
        soon("invoke", self.engine.invoke(invocation))
            .await
            .unwrap()
    }

    /// Invokes and follows to the end.
    pub(crate) async fn ask(&self, input: &str) -> Ended {
        let invoked = self.invoke(input).await;
        self.end(invoked).await
    }

    pub(crate) async fn ask_in(&self, session: &SessionId, input: &str) -> Ended {
        let invoked = self.invoke_in(session, input).await;
        self.end(invoked).await
    }

    /// Follows a request to its end.
    pub(crate) async fn end(&self, mut invoked: Invoked) -> Ended {
        let id = invoked.request_id;
        let mut events = Vec::new();
        soon("the request", async {
            while let Some(event) = invoked.events.next().await.unwrap() {
                events.push(event);
            }
        })
        .await;
        let row = self.engine.request(id).await.unwrap();
        let journal = self.journal(id).await;
        Ended {
            row,
            events,
            journal,
        }
    }

    /// Waits until nothing runs.
    pub(crate) async fn idle(&self) {
        until("the engine", || self.engine.active() == 0).await;
    }

    pub(crate) async fn journal(&self, id: RequestId) -> Vec<Entry> {
        self.store.journal(id, 0, 10_000).await.unwrap()
    }

    /// A request of the same session still works.
    pub(crate) async fn assert_usable(&self, session: &SessionId) {
        let next = self.ask_in(session, "and now?").await;
        assert_eq!(next.output(), "Echo: and now?", "{:?}", next.row.failure);
    }
}

/// A script that answers [`Rig::assert_usable`] before anything else: a request without an
/// answer leaves its text in front of the next.
pub(crate) fn script() -> rune_testkit::ModelScript {
    rune_testkit::ModelScript::new()
        .on_text("and now?")
        .reply(rune_testkit::Reply::text("Echo: and now?"))
}

pub(crate) fn call(input: &str) -> Invocation {
    Invocation {
        namespace: "dev".to_owned(),
        agent: "bot".to_owned(),
        alias: "stable".to_owned(),
        input: Value::String(input.to_owned()),
        session_id: None,
        follows: None,
        metadata: BTreeMap::new(),
        caller: "test".to_owned(),
        idempotency: None,
    }
}

impl Ended {
    pub(crate) fn output(&self) -> &str {
        self.row
            .output
            .as_ref()
            .and_then(Value::as_str)
            .unwrap_or("")
    }

    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        kinds(&self.journal)
    }

    pub(crate) fn event_names(&self) -> Vec<&'static str> {
        self.events.iter().map(|event| event.event.name()).collect()
    }

    /// The text a follower saw.
    pub(crate) fn text(&self) -> String {
        let texts = self.events.iter().filter_map(|event| match &event.event {
            RequestEvent::Token { text } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// What the model was told about each call: tool and content.
    pub(crate) fn results(&self) -> Vec<(String, String)> {
        let results = self.journal.iter().filter_map(|entry| match &entry.body {
            EntryBody::ToolResult(outcome) => Some((outcome.tool.clone(), outcome.content.clone())),
            _ => None,
        });
        results.collect()
    }
}

pub(crate) fn kinds(journal: &[Entry]) -> Vec<&'static str> {
    journal.iter().map(|entry| entry.body.kind()).collect()
}
