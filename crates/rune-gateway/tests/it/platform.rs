//! A whole Rune in this process: a fake store, in-process replicas, the offline model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rune_docker::DockerEngine;
use rune_env::{Config, ConfigSources, Overrides};
use rune_mcp::McpClient;
use rune_runtime::model::{ProviderPool, Timeouts};
use rune_runtime::{
    AgentLoader, Engine, LocalBackend, PackageCache, ReconcileHandle, ReconcileLoop, ReplicaRouter,
    SecretVault, Tasks,
};
use rune_storage::ObjectStore;
use rune_store_runtime::{
    ApplyDeployment, BlobStore, DeploymentId, DeploymentState, PublishVersion, ScaleBounds, Store,
    SystemClock, VersionId,
};
use rune_testkit::store::FakeStore;
use rune_tools::{Builtins, BuiltinsConfig, Diagnostics, Launcher, ProcessRunner};
use rune_wasm::{WasmConfig, WasmRuntime};

/// Everything below the HTTP APIs.
pub(crate) struct Platform {
    pub(crate) engine: Engine,
    pub(crate) store: Store,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) reconcile: ReconcileHandle,
    pub(crate) tasks: Tasks,
    pub(crate) dir: tempfile::TempDir,
}

impl Platform {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(Arc::new(FakeStore::default()), Arc::new(SystemClock));
        let blobs: Arc<dyn BlobStore> =
            Arc::new(ObjectStore::open_directory(&dir.path().join("objects")).unwrap());
        let home = dir.path().display().to_string();
        let config = Config::load(ConfigSources {
            env: Arc::new(move |name| (name == "HOME").then(|| home.clone())),
            file: None,
            overrides: Overrides::default(),
        })
        .unwrap();
        let loader = AgentLoader {
            pool: ProviderPool::default(),
            providers: config.providers,
            timeouts: Timeouts::default(),
            builtins: Builtins::new(BuiltinsConfig::default()),
            runner: ProcessRunner::new("/usr/bin:/bin"),
            variables: Arc::new(|_| None),
            secrets: SecretVault::empty(),
            wasm: WasmRuntime::new(WasmConfig::default()),
            mcp: McpClient::new("/usr/bin:/bin", Launcher::Direct, Arc::new(|_| None)),
            docker: DockerEngine::absent(),
            remotes: rune_tools::RemoteAgents::default(),
            workspaces: dir.path().join("workspaces"),
            diagnostics: Diagnostics::default(),
        };
        let (router, tasks) = (ReplicaRouter::new(), Tasks::new());
        let packages = PackageCache::new(Arc::clone(&blobs), dir.path().join("packages"));
        let backend = LocalBackend::new(Arc::new(loader), packages, router.clone());
        let (reconcile_loop, reconcile) = ReconcileLoop::new(
            store.clone(),
            Arc::new(backend),
            router.clone(),
            tasks.clone(),
            Duration::from_secs(5),
        );
        tasks.spawn("reconcile", reconcile_loop.run());
        let engine = Engine::new(store.clone(), router, tasks.clone());
        Self {
            engine,
            store,
            blobs,
            reconcile,
            tasks,
            dir,
        }
    }

    /// Packs an agent that echoes, and plays `script` where it has a rule.
    pub(crate) fn package(&self, name: &str, version: &str, script: &str) -> Vec<u8> {
        let dir = self.dir.path().join("source");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let runefile = format!(
            "name: {name}\nversion: {version}\ndescription: An agent of a test.\n\
             instructions: Be brief.\ndefault_model: default\ntoolset: [\"rune@system-time\"]\n\
             models:\n  model_mapping:\n    default: {{ offline: offline }}\n"
        );
        std::fs::write(dir.join("Runefile"), runefile).unwrap();
        if !script.is_empty() {
            std::fs::write(dir.join("script.yaml"), script).unwrap();
        }
        rune_spec::package::pack(&dir).unwrap().bytes
    }

    /// Deploys a package as `dev/NAME:stable` and waits until it answers.
    #[allow(
        dead_code,
        reason = "not every crate that includes this file deploys by hand"
    )]
    pub(crate) async fn deploy(&self, name: &str, script: &str) -> DeploymentId {
        let bytes = self.package(name, "0.1.0", script);
        let size = bytes.len() as u64;
        let version = PublishVersion {
            version_id: VersionId::generate(),
            agent: name.to_owned(),
            version: "0.1.0".to_owned(),
            description: "An agent of a test.".to_owned(),
            digest: self.blobs.put(bytes.into()).await.unwrap(),
            size,
            image: None,
            scaling: ScaleBounds::default(),
            signature: None,
        };
        let version = self.store.write(version).await.unwrap();
        let apply = ApplyDeployment {
            deployment_id: DeploymentId::generate(),
            namespace: "dev".to_owned(),
            agent: name.to_owned(),
            alias: "stable".to_owned(),
            version_id: version.id,
            replicas: Some(1),
            env: BTreeMap::new(),
            project: None,
        };
        let row = self.store.write(apply).await.unwrap();
        for _ in 0..2 {
            let pass = self.reconcile.next_pass();
            self.reconcile.wake();
            assert!(pass.await);
        }
        let row = self.store.deployment(row.id).await.unwrap().unwrap();
        assert_eq!(row.state, DeploymentState::Ready, "{}", row.reason);
        row.id
    }
}
