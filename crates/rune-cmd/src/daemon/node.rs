//! The engine with its store and its tools, put together. The daemon and the one-shot mode differ only in where the
//! data is and in what a power loss may take.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rune_docker::{DockerConfig, DockerEngine, DockerExec};
use rune_env::{Config, REPLICA_ORPHAN_SECS, SandboxMode, ToolsConfig, WebSearch};
use rune_mcp::McpClient;
use rune_remote_store::InternalTokens;
use rune_runtime::model::{ClaudeCli, Prices, ProviderPool, Timeouts};
use rune_runtime::{AgentLoader, Engine, ReplicaRouter, SecretKeySource, SecretVault, Tasks};
use rune_storage::{
    Durability, ObjectStore, SecretFile, SqliteStore, StorageConfig, StorageError, Variables,
};
use rune_store_runtime::{BlobStore, Store, SystemClock};
use rune_tools::{
    BrowserConfig, Builtins, BuiltinsConfig, Diagnostics, EgressPolicy, Hosts, Launcher, Parts,
    ProcessRunner, RemoteAgents, RemoteAgentsConfig, RemoteCredential, Sandbox, SandboxSupport,
    SearchBackend, SearchConfig,
};
use rune_wasm::{WasmConfig, WasmRuntime};

use super::listeners::already_running;
use crate::cli::LAUNCH_VERB;
use crate::failure::{Failure, Outcome};
use crate::source::registry::docker_directory;

/// Prices that add to the built-in catalogue, in the data directory.
pub(crate) const PRICES_FILE: &str = "prices.toml";

/// Compiled WebAssembly, in the data directory; can be removed at any time.
const CODE_DIR: &str = "cache/wasm";

/// An engine that runs nothing yet.
pub(crate) struct Node {
    pub(crate) database: Arc<SqliteStore>,
    pub(crate) store: Store,
    pub(crate) objects: ObjectStore,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) loader: Arc<AgentLoader>,
    pub(crate) router: ReplicaRouter,
    pub(crate) tasks: Tasks,
    pub(crate) engine: Engine,
    pub(crate) docker: DockerEngine,
    /// For replicas and split gateways.
    pub(crate) tokens: Arc<InternalTokens>,
}

/// Where the data is.
#[derive(Clone)]
pub(crate) struct Place {
    /// The database file.
    pub(crate) database: PathBuf,
    /// URL of the object store, or `None` for `objects`.
    pub(crate) object_url: Option<String>,
    /// Who asks it, and where.
    pub(crate) object_variables: Variables,
    /// Directory of the object store without a URL.
    pub(crate) objects: PathBuf,
    /// What a power loss may take.
    pub(crate) durability: Durability,
    /// The database that holds the secrets, where it is another one.
    pub(crate) secrets: Option<PathBuf>,
    /// What tools must not see beside the data.
    pub(crate) hidden: Vec<PathBuf>,
}

impl Place {
    /// Where the configuration says.
    pub(crate) fn configured(config: &Config) -> Outcome<Self> {
        Ok(Self {
            database: database_path(&config.storage.database_url)?,
            object_url: config.storage.object_store_url.clone(),
            object_variables: config.object_store_variables(),
            objects: config.storage.object_dir(),
            durability: Durability::Full,
            secrets: None,
            hidden: Vec::new(),
        })
    }

    /// Below a directory that is removed afterwards. Secrets are those of the configured place.
    pub(crate) fn temporary(config: &Config, dir: &Path) -> Outcome<Self> {
        Ok(Self {
            database: dir.join("rune.db"),
            object_url: None,
            object_variables: Variables::new(),
            objects: dir.join("objects"),
            durability: Durability::Normal,
            secrets: Some(database_path(&config.storage.database_url)?),
            hidden: Vec::new(),
        })
    }

    /// The directory that holds the objects, where one does.
    pub(crate) fn object_directory(&self) -> Option<PathBuf> {
        match &self.object_url {
            Some(url) => ObjectStore::directory(url),
            None => Some(self.objects.clone()),
        }
    }

    /// Opens the object store.
    pub(crate) fn open_objects(&self) -> Outcome<ObjectStore> {
        let objects = match &self.object_url {
            Some(url) => ObjectStore::open(url, &self.object_variables),
            None => ObjectStore::open_directory(&self.objects),
        };
        objects.map_err(|error| {
            Failure::because("cannot open the object store", &error)
                .help("RUNE_OBJECT_STORE_URL says where it is; leave it out for a local directory")
        })
    }
}

/// What an engine works with beside its store. Making it takes longer than everything else of an engine.
pub(crate) struct Prepared {
    objects: ObjectStore,
    /// How the engine reaches them: on a node of a cluster those of other nodes, too.
    pub(super) blobs: Arc<dyn BlobStore>,
    loader: AgentLoader,
    docker: DockerEngine,
}

impl Prepared {
    /// That of this configuration, with the secrets in a store. What they leave to be cleaned up is `tasks`.
    pub(crate) fn new(
        config: &Config,
        place: &Place,
        store: &Store,
        tasks: &Tasks,
    ) -> Outcome<Self> {
        let objects = place.open_objects()?;
        let prices = Prices::load(&config.storage.data_dir.join(PRICES_FILE))
            .map_err(|error| Failure::because("cannot read the prices of models", &error))?;
        let secrets = secrets(config, place, store)?;
        let (loader, docker) = agent_loader(config, place, secrets, prices, tasks)?;
        Ok(Self {
            blobs: Arc::new(objects.clone()),
            objects,
            loader,
            docker,
        })
    }
}

impl Node {
    /// Opens the data and puts the engine on it.
    pub(crate) fn open(config: &Config, place: &Place) -> Outcome<Self> {
        let mut storage = StorageConfig::new(&place.database);
        storage.durability = place.durability;
        let database = SqliteStore::open(storage).map_err(|error| match error {
            StorageError::Locked { path, pid } => already_running(&path, pid),
            error => {
                let what = format!("cannot open the database {}", place.database.display());
                Failure::because(what, &error).help("`rune doctor` checks it")
            }
        })?;
        let database = Arc::new(database);
        let store = Store::new(database.clone(), Arc::new(SystemClock));
        let tasks = Tasks::new();
        let parts = Prepared::new(config, place, &store, &tasks)?;
        Ok(Self::with(config, parts, database, tasks))
    }

    /// Puts the engine on a store that is open.
    pub(crate) fn with(
        config: &Config,
        parts: Prepared,
        database: Arc<SqliteStore>,
        tasks: Tasks,
    ) -> Self {
        let Prepared {
            objects,
            blobs,
            loader,
            docker,
        } = parts;
        let store = Store::new(database.clone(), Arc::new(SystemClock));
        let loader = Arc::new(loader);
        let router = ReplicaRouter::new();
        let engine = Engine::new(store.clone(), router.clone(), tasks.clone())
            .with_blobs(Arc::clone(&blobs))
            .with_recovery(config.recovery)
            .with_caller_budgets(config.budgets.clone());
        let tokens = InternalTokens::new(store.clone(), internal_key(config));
        // Where it is no number replicas say so.
        let orphan_secs = config.variable(REPLICA_ORPHAN_SECS);
        let orphan_secs = orphan_secs.and_then(|text| text.trim().parse::<u32>().ok());
        let orphan_after = Duration::from_secs(orphan_secs.unwrap_or_default().into());
        let tokens = tokens.outlasting(orphan_after);
        let tokens = Arc::new(tokens);
        let engine = match &config.gateway.base_url {
            Some(url) => engine.with_wakeups_at(url),
            None => engine,
        };
        Self {
            database,
            store,
            objects,
            blobs,
            loader,
            router,
            tasks,
            engine,
            docker,
            tokens,
        }
    }
}

/// The key that the tokens of replicas and split gateways are derived from.
pub(crate) fn internal_key(config: &Config) -> SecretKeySource {
    match &config.storage.secret_key {
        Some(key) => SecretKeySource::Given(key.clone()),
        None => SecretKeySource::File(config.storage.internal_key_file()),
    }
}

/// What makes agents, and Docker Engine for those of their tools that are containers.
pub(crate) fn agent_loader(
    config: &Config,
    place: &Place,
    secrets: SecretVault,
    prices: Prices,
    tasks: &Tasks,
) -> Outcome<(AgentLoader, DockerEngine)> {
    let variables = config.clone();
    let remotes = remote_agents(config)?;
    let builtins = BuiltinsConfig {
        egress: egress(&config.tools)?,
        remotes: remotes.clone(),
        browser: browser_config(config),
        search: search(&config.tools),
        location: config.tools.location.clone(),
        location_lookup: config.tools.location_lookup.clone(),
        launcher: launcher(config, place)?,
        ..BuiltinsConfig::default()
    };
    let servers = config.clone();
    let mcp = McpClient::new(
        &builtins.search_path,
        builtins.launcher.clone(),
        Arc::new(move |server| servers.mcp_server_url(server)),
    )
    .with_egress(builtins.egress.clone());
    let runner = ProcessRunner::new(&builtins.search_path)
        .with_launcher(builtins.launcher.clone())
        .with_egress(builtins.egress.clone());
    let docker = docker_engine(config, tasks);
    let exec = Arc::new(DockerExec::new(docker.clone()));
    let loader = AgentLoader {
        providers: config.providers.clone(),
        timeouts: Timeouts::default(),
        pool: ProviderPool::new(
            config.providers.limits.clone(),
            prices,
            ClaudeCli::find(|name| config.variable(name)),
        ),
        builtins: Builtins::new(builtins).with(exec),
        runner,
        wasm: WasmRuntime::new(WasmConfig {
            egress: egress(&config.tools)?,
            ..wasm_config(config)
        }),
        mcp,
        remotes,
        docker: docker.clone(),
        variables: Arc::new(move |name| variables.variable(name)),
        secrets,
        workspaces: config.runtime.workspace_dir.clone(),
        diagnostics: Diagnostics::default(),
    };
    Ok((loader, docker))
}

/// The key that secrets are encrypted with.
pub(crate) fn secret_key(config: &Config) -> SecretKeySource {
    match &config.storage.secret_key {
        Some(key) => SecretKeySource::Given(key.clone()),
        None => SecretKeySource::File(config.storage.secret_key_file()),
    }
}

/// The secrets of tools, and the key that they are encrypted with.
fn secrets(config: &Config, place: &Place, store: &Store) -> Outcome<SecretVault> {
    let source = secret_key(config);
    let Some(path) = &place.secrets else {
        return Ok(SecretVault::new(Arc::new(store.clone()), source));
    };
    let file = SecretFile::open(path).map_err(|error| {
        let what = format!("cannot read the secrets in {}", path.display());
        Failure::because(what, &error).help("`rune doctor` checks it")
    })?;
    Ok(file.map_or_else(SecretVault::empty, |file| {
        SecretVault::new(Arc::new(file), source)
    }))
}

/// How the web is searched.
fn search(tools: &ToolsConfig) -> SearchConfig {
    SearchConfig {
        backend: match tools.web_search {
            WebSearch::DuckDuckGo => SearchBackend::DuckDuckGo,
            WebSearch::SearXng => SearchBackend::SearXng,
            WebSearch::Brave => SearchBackend::Brave,
            WebSearch::Tavily => SearchBackend::Tavily,
        },
        url: tools.web_search_url.clone(),
        key: tools.web_search_key.clone(),
    }
}

/// The browser of the browser tools.
pub(crate) fn browser_config(config: &Config) -> BrowserConfig {
    BrowserConfig {
        program: config.runtime.chrome_path.clone(),
        search_path: config.variable("PATH").unwrap_or_default(),
        sandbox: config.runtime.chrome_sandbox,
    }
}

/// Docker Engine. Its containers see nothing of Rune's own.
pub(crate) fn docker_engine(config: &Config, tasks: &Tasks) -> DockerEngine {
    let url = config.storage.object_store_url.as_deref();
    let objects = url.and_then(ObjectStore::directory);
    // Where there is none the data directory has everything.
    let database = database_path(&config.storage.database_url).ok();
    let engine = DockerConfig {
        host: config.tools.docker_host.clone(),
        data_dir: config.storage.data_dir.clone(),
        workspaces: config.runtime.workspace_dir.clone(),
        hidden: database
            .into_iter()
            .chain([config.storage.object_dir()])
            .chain(objects)
            .collect(),
        exec_containers: config.tools.docker_exec_containers.clone(),
        credentials: docker_directory(config),
    };
    let tasks = tasks.clone();
    let spawn = move |task| {
        tasks.spawn("container", task);
    };
    DockerEngine::new(engine, Arc::new(spawn))
}

/// What runs WebAssembly tools: compiled once for this data directory.
pub(crate) fn wasm_runtime(config: &Config) -> WasmRuntime {
    WasmRuntime::new(wasm_config(config))
}

fn wasm_config(config: &Config) -> WasmConfig {
    WasmConfig {
        cache: Some(config.storage.data_dir.join(CODE_DIR)),
        ..WasmConfig::default()
    }
}

/// How agents of other installations are reached.
fn remote_agents(config: &Config) -> Outcome<RemoteAgents> {
    let mut hosts = Hosts::default();
    for text in &config.a2a.remote_hosts {
        if !hosts.grant_place(text) {
            let message = format!("`a2a.remote_hosts`: `{text}` is not HOST[:PORT]");
            return Err(Failure::usage(message));
        }
    }
    let credentials = config.a2a.remote_credentials.iter();
    let credentials = credentials.map(|one| RemoteCredential {
        origin: one.origin.clone(),
        header: one.header.clone(),
        value: one.value.clone(),
    });
    let remote = RemoteAgentsConfig {
        credentials: credentials.collect(),
        hosts,
    };
    Ok(RemoteAgents::new(remote, egress(&config.tools)?))
}

/// Where tools may connect to.
fn egress(tools: &ToolsConfig) -> Outcome<EgressPolicy> {
    let exceptions = tools.allow_private.iter().map(|text| text.parse());
    let allow_private = exceptions.collect::<Result<_, _>>().map_err(|error| {
        Failure::usage(format!("`tools.allow_private` is not valid: {error}"))
            .help("an example: RUNE_ALLOW_PRIVATE=\"127.0.0.1, 10.0.0.0/8, wiki.lan\"")
    })?;
    Ok(EgressPolicy {
        allow_private,
        ..EgressPolicy::default()
    })
}

/// Starts processes and confines them as the configuration says.
fn launcher(config: &Config, place: &Place) -> Outcome<Launcher> {
    let (program, args) = own_launcher()?;
    let parts = match config.tools.sandbox {
        SandboxMode::Require => Parts::ALL,
        SandboxMode::Off => Parts::default(),
        SandboxMode::BestEffort => {
            let support = SandboxSupport::probe(&program, &args);
            for (part, tried) in &support.parts {
                if let Err(why) = tried {
                    tracing::warn!(part, why, "processes of tools are confined without it");
                }
            }
            support.available()
        }
    };
    Ok(Launcher::Program {
        program,
        args,
        sandbox: Sandbox {
            parts,
            hidden: hidden(config, place),
        },
    })
}

/// What is Rune's own and no tool's affair.
pub(crate) fn hidden(config: &Config, place: &Place) -> Vec<PathBuf> {
    let objects = place.object_directory();
    let home = config.variable("HOME").map(PathBuf::from);
    let data = [config.storage.data_dir.clone(), place.database.clone()];
    let own = home.map(|home| home.join(".rune"));
    let more = place.hidden.iter().cloned();
    data.into_iter()
        .chain(objects)
        .chain(own)
        .chain(more)
        .collect()
}

/// This program, as what it was when it was started: an upgrade may have replaced its file.
pub(crate) fn own_launcher() -> Outcome<(PathBuf, Vec<OsString>)> {
    let running = Path::new("/proc/self/exe");
    let program = if running.exists() {
        running.to_owned()
    } else {
        std::env::current_exe()
            .map_err(|error| Failure::because("cannot find the own program", &error))?
    };
    Ok((program, vec![LAUNCH_VERB.into()]))
}

/// The file of a `sqlite:PATH` URL.
pub(crate) fn database_path(url: &str) -> Outcome<PathBuf> {
    let path = url
        .strip_prefix("sqlite:")
        .map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    match path {
        Some(path) if !path.is_empty() && !path.contains('?') => Ok(PathBuf::from(path)),
        _ => Err(Failure::usage(format!("the database URL `{}` is not valid", scheme_only(url)))
            .help("expected sqlite:PATH, such as sqlite:/var/lib/rune/rune.db (DATABASE_URL, --database-url)")),
    }
}

/// A URL without what may be a password in it.
fn scheme_only(url: &str) -> String {
    match url.split_once(':') {
        Some((scheme, _)) if scheme != "sqlite" => format!("{scheme}:…"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn reads_the_file_of_a_database_url() {
        for (url, path) in [
            ("sqlite:/a/rune.db", "/a/rune.db"),
            ("sqlite:///a/rune.db", "/a/rune.db"),
            ("sqlite:rune.db", "rune.db"),
        ] {
            assert_eq!(database_path(url).unwrap(), PathBuf::from(path), "{url}");
        }
    }

    #[test]
    fn refuses_other_databases_without_showing_their_password() {
        let failure = database_path("postgres://me:secret@host/db").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(!failure.message().contains("secret"), "{failure:?}");
    }
}
