//! Replicas outside the daemon: how they find it, and what they start from.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rune_backend::ReplicaSpec;
use rune_env::{
    Config, Provider, REPLICA_CONTROL_PLANE, REPLICA_DEPLOYMENT, REPLICA_FINGERPRINT, REPLICA_ID,
    REPLICA_KEY, REPLICA_ORPHAN_SECS, REPLICA_TOKEN,
};
use rune_remote_store::InternalTokens;
use rune_replica::{BootSource, ReplicaSettings};
use rune_runtime::{AgentLoader, PackageCache, ReplicaAccess, SecretError, SecretKeySource};
use rune_spec::{AgentPackage, AgentRef, Capability, ToolRuntime};
use rune_store_runtime::{DeploymentRow, ReplicaId, VersionRow};
use secrecy::{ExposeSecret as _, SecretString};

use super::node::PRICES_FILE;

/// Settings that every replica has.
const SHARED: &[&str] = &[
    "tools.",
    "runtime.drain_grace_secs",
    "runtime.chrome_",
    "a2a.remote_hosts",
];
/// What proves to agents of other installations who calls; for agents that call some.
const REMOTE_CREDENTIALS: &str = "a2a.remote_credentials";
/// Built-in tools that call agents of other installations, which the model names.
const REMOTE_TOOLS: &[&str] = &["a2a-send", "a2a-discover"];
/// Tools that ask models of providers whatever the agent's own are.
const MEDIA_TOOLS: &[&str] = &[
    "image-analyze",
    "image-generate",
    "media-describe",
    "media-transcribe",
    "text-to-speech",
    "speech-to-text",
];

/// How replicas find the daemon.
pub(super) struct Access {
    pub(super) tokens: Arc<InternalTokens>,
    pub(super) control_plane: String,
    /// What their keys are derived from.
    pub(super) keys: SecretKeySource,
    /// `RUNE_REPLICA_ORPHAN_SECS` of the daemon.
    pub(super) orphan_secs: Option<String>,
    pub(super) boot: Arc<Boot>,
}

#[async_trait]
impl ReplicaAccess for Access {
    async fn launch(
        &self,
        spec: &ReplicaSpec,
        fingerprint: &str,
    ) -> Result<BTreeMap<String, String>, SecretError> {
        let (deployment, replica) = (spec.deployment_id, spec.replica_id);
        let tokens = &self.tokens;
        let issued = tokens.for_replica(replica, deployment, &spec.namespace);
        let issued = issued.await?;
        let key = self.key(replica).await?;
        let variables = [
            (REPLICA_ID, replica.to_string()),
            (REPLICA_DEPLOYMENT, deployment.to_string()),
            (REPLICA_CONTROL_PLANE, self.control_plane.clone()),
            (REPLICA_TOKEN, issued.token.expose_secret().to_owned()),
            (REPLICA_KEY, key.expose_secret().to_owned()),
            (REPLICA_FINGERPRINT, fingerprint.to_owned()),
        ];
        let orphan = self.orphan_secs.clone();
        let orphan = orphan.map(|seconds| (REPLICA_ORPHAN_SECS, seconds));
        let variables = variables.into_iter().chain(orphan);
        Ok(variables
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }

    async fn basis(&self, spec: &ReplicaSpec) -> Result<String, String> {
        let boot = &self.boot;
        let settings = boot.of(&spec.digest, &spec.namespace, &spec.env).await?;
        let settings = serde_json::to_string(&settings).map_err(|error| error.to_string())?;
        let program = env!("CARGO_PKG_VERSION");
        let image = &boot.config.runtime.replica_image;
        // One that was told of another address does not find the daemon.
        let address = &self.control_plane;
        // Keyed, because there are secrets in it.
        let purpose = format!("basis of replicas {program} {image:?} {address} {settings}");
        let basis = self.keys.derive(&purpose).await;
        basis
            .map(|basis| hex(&basis))
            .map_err(|error| error.to_string())
    }

    async fn key(&self, id: ReplicaId) -> Result<SecretString, SecretError> {
        // Nothing of it is kept, and the next start derives the same one.
        let key = self.keys.derive(&format!("key of replica {id}")).await?;
        Ok(hex(&key).into())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What replicas start from: of the daemon's settings and variables what their agent needs.
pub(super) struct Boot {
    pub(super) config: Config,
    pub(super) loader: Arc<AgentLoader>,
    pub(super) packages: PackageCache,
}

impl Boot {
    /// The settings for a package in a namespace, with these variables of its deployment.
    async fn of(
        &self,
        digest: &str,
        namespace: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<ReplicaSettings, String> {
        let dir = self.packages.get(digest).await;
        let dir = dir.map_err(|error| error.to_string())?;
        let loader = Arc::clone(&self.loader);
        let (namespace, env) = (namespace.to_owned(), env.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            let variables = loader.variables_of(&dir, &namespace, &env);
            let variables = variables.map_err(|error| error.to_string())?;
            Ok::<_, String>((package(&dir)?, variables))
        });
        let (package, mut variables) = loaded.await.map_err(|error| error.to_string())??;
        for server in &package.runefile.mcp_servers {
            let name = Config::mcp_server_variable(&server.name);
            if let Some(url) = self.config.variable(&name) {
                variables.insert(name, url);
            }
        }
        let prices = prices(&self.config.storage.data_dir.join(PRICES_FILE)).await?;
        let keys = providers(&self.config, &package);
        let credentials = calls_elsewhere(&package).then_some(REMOTE_CREDENTIALS);
        let keys = keys.iter().chain(SHARED).copied().chain(credentials);
        let keys: Vec<&str> = keys.collect();
        Ok(ReplicaSettings {
            keys: self.config.settings(&keys),
            variables,
            limits: self.config.providers.limits.clone(),
            prices,
        })
    }
}

#[async_trait]
impl BootSource for Boot {
    async fn settings(
        &self,
        deployment: &DeploymentRow,
        version: &VersionRow,
    ) -> Result<ReplicaSettings, String> {
        let (namespace, env) = (&deployment.namespace, &deployment.env);
        self.of(&version.digest, namespace, env).await
    }

    async fn granted(&self, version: &VersionRow) -> Result<BTreeSet<String>, String> {
        let dir = self.packages.get(&version.digest).await;
        let dir = dir.map_err(|error| error.to_string())?;
        let loaded = tokio::task::spawn_blocking(move || package(&dir)).await;
        let package = loaded.map_err(|error| error.to_string())??;
        let tools = package.tools.iter();
        let tools = tools.map(|tool| &tool.descriptor.capabilities);
        let servers = package.runefile.mcp_servers.iter();
        let servers = servers.map(|server| &server.capabilities);
        let names = tools.chain(servers).flatten().filter_map(|it| match it {
            Capability::Secret(name) => Some(name.clone()),
            _ => None,
        });
        Ok(names.collect())
    }
}

/// The prices that add to the built-in ones, where there are any.
async fn prices(path: &Path) -> Result<Option<String>, String> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

fn package(dir: &Path) -> Result<AgentPackage, String> {
    AgentPackage::load(dir).map_err(|errors| errors.to_string())
}

/// Whether an agent can call agents of other installations. Which of their hosts it comes to is not known before: a card
/// names its endpoint, and the model names the callee.
fn calls_elsewhere(package: &AgentPackage) -> bool {
    let mut tools = package.tools.iter().map(|tool| &tool.descriptor);
    let by_tool = tools.any(|tool| match &tool.runtime {
        ToolRuntime::Agent { agent_ref, .. } => matches!(agent_ref, AgentRef::Url(_)),
        ToolRuntime::Builtin => REMOTE_TOOLS.contains(&tool.name.as_str()),
        ToolRuntime::Process { .. }
        | ToolRuntime::Wasm { .. }
        | ToolRuntime::Container { .. }
        | ToolRuntime::Mcp { .. } => false,
    });
    let mut steps = package.workflow.iter().flat_map(|flow| &flow.steps);
    by_tool || steps.any(|step| matches!(step.agent_ref, AgentRef::Url(_)))
}

/// Settings of the model providers that an agent asks.
fn providers(config: &Config, package: &AgentPackage) -> Vec<&'static str> {
    let mut tools = package.tools.iter();
    if tools.any(|tool| MEDIA_TOOLS.contains(&tool.descriptor.name.as_str())) {
        return vec!["providers."];
    }
    let named = &package.runefile.models.providers;
    let asked = |provider: &Provider| match named.is_empty() {
        true => *provider == config.providers.preferred(),
        false => named.iter().any(|name| name == provider.as_str()),
    };
    let asked = Provider::ALL.into_iter().filter(asked);
    let keys = asked.flat_map(|provider| match provider {
        Provider::Anthropic => &["providers.anthropic_"][..],
        Provider::ClaudeCode => &["providers.claude_"],
        Provider::Gemini => &["providers.gemini_"],
        Provider::Copilot => &["providers.copilot_", "providers.github_"],
        Provider::Openai => &["providers.openai_"],
        Provider::Offline => &[],
    });
    keys.copied().collect()
}
