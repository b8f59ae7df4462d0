//! Compiles and keeps modules.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rune_spec::{Runefile, ToolDescriptor, ToolRef};
use rune_tools::EgressPolicy;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use wasmtime::{Engine, Linker, component};

use crate::agent::{AgentGuest, add_to_linker};
use crate::code_cache::{CodeCache, ModuleDigest};
use crate::engine::{AGENT_LEVELS, AGENT_PLACES, MAX_GUESTS, MAX_MEMORY_BYTES, Ticker, engine};
use crate::grants::Grants;
use crate::guest::Guest;
use crate::http::HttpClient;
use crate::imports::Kind;
use crate::loaded::Loaded;
use crate::{WasmAgent, WasmError, WasmTool, files, lookup};

/// The largest file of a module.
const MAX_MODULE_BYTES: u64 = 64 * 1024 * 1024;
/// Memory of a guest whose description does not say.
const DEFAULT_MEMORY_MB: u64 = 128;

/// What an agent's component is granted.
#[derive(Debug, Clone, Copy)]
pub struct AgentGrants {
    /// Whether a tool of the memory is in its toolset.
    pub remembers: bool,
    /// MiB of memory of a run; no more than 4096 counts.
    pub memory_mib: u32,
    /// CPU time of a run; absent: only its clock counts.
    pub cpu: Option<Duration>,
}

impl AgentGrants {
    /// What an agent grants its own component.
    #[must_use]
    pub fn of(agent: &Runefile) -> Self {
        let is_memory =
            |tool: &ToolRef| matches!(tool, ToolRef::Builtin(name) if name.starts_with("memory-"));
        Self {
            remembers: agent.toolset.iter().any(is_memory),
            memory_mib: agent.runtime.resource_profile.component_mib(),
            cpu: agent.runtime.component_cpu_ms.map(Duration::from_millis),
        }
    }

    /// Bytes of memory of a run.
    pub(crate) fn memory(self) -> u64 {
        (u64::from(self.memory_mib) << 20).min(MAX_MEMORY_BYTES)
    }
}

/// What an operator can set about WebAssembly.
#[derive(Debug, Clone, Default)]
pub struct WasmConfig {
    /// Where compiled modules are kept; nowhere where it is absent.
    pub cache: Option<PathBuf>,
    /// Where guests may go that are granted hosts.
    pub egress: EgressPolicy,
}

/// Runs modules. Nothing is set up before the first one is loaded.
#[derive(Clone)]
pub struct WasmRuntime(Arc<Inner>);

struct Inner {
    config: WasmConfig,
    host: OnceLock<Result<Arc<Host>, String>>,
    modules: Mutex<HashMap<ModuleDigest, Slot>>,
}

/// A module that somebody uses, once. Whoever compiles it holds the lock.
type Slot = Arc<Mutex<Weak<Loaded>>>;

/// What all guests share.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) modules: Linker<Guest>,
    pub(crate) components: component::Linker<Guest>,
    pub(crate) agents: component::Linker<AgentGuest>,
    pub(crate) ticker: Ticker,
    pub(crate) turns: Semaphore,
    pub(crate) agent_places: [Semaphore; AGENT_LEVELS],
    pub(crate) client: Arc<HttpClient>,
    pub(crate) cache: Option<CodeCache>,
}

impl WasmRuntime {
    /// A runtime without modules.
    #[must_use]
    pub fn new(config: WasmConfig) -> Self {
        Self(Arc::new(Inner {
            config,
            host: OnceLock::new(),
            modules: Mutex::default(),
        }))
    }

    /// The tool that a description of runtime `wasm` describes; `module` is its file, `lookup` knows the values of
    /// variables. Compiles where nobody has: not for the reactor.
    ///
    /// # Errors
    /// A [`WasmError`] that says what to do.
    pub fn load(
        &self,
        module: &Path,
        descriptor: &ToolDescriptor,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<WasmTool, WasmError> {
        let memory = memory_limit(descriptor)?;
        let grants = Grants::new(&descriptor.capabilities, lookup)?;
        let (host, loaded) = self.module(module)?;
        // Before what it imports: a file of another kind says so.
        loaded.tool_entry(module)?;
        loaded.surface.check(module, &grants.hosts)?;
        if loaded.surface.initial_memory > memory {
            return Err(WasmError::Memory {
                path: module.to_owned(),
                needed: loaded.surface.initial_memory,
                limit: memory,
            });
        }
        let linked = loaded.link(&host, module)?;
        Ok(WasmTool {
            name: descriptor.name.clone(),
            host,
            linked,
            grants: Arc::new(grants),
            memory,
            fuel: descriptor.limits.fuel,
            cpu: descriptor.limits.cpu_ms.map(Duration::from_millis),
            _loaded: loaded,
        })
    }

    /// The agent whose `entrypoint` is `module`. Compiles where nobody has: not for the reactor.
    ///
    /// # Errors
    /// A [`WasmError`] that says what to do.
    pub fn load_agent(&self, module: &Path, grants: AgentGrants) -> Result<WasmAgent, WasmError> {
        let memory = grants.memory();
        let (host, loaded) = self.module(module)?;
        let (pre, entry) = {
            // Before what it imports: a file of another kind says so.
            let is_agent = loaded.surface.kind == Some(Kind::AgentComponent);
            if is_agent {
                loaded.surface.check_agent(module, grants.remembers)?;
            }
            loaded.link_agent(&host, module)?
        };
        if loaded.surface.initial_memory > memory {
            let needed = loaded.surface.initial_memory;
            return Err(WasmError::NotAnAgent {
                path: module.to_owned(),
                reason: format!(
                    "it starts with {needed} bytes of memory and may have {memory}, half of what \
                     `runtime.resource_profile` stands for"
                ),
            });
        }
        Ok(WasmAgent {
            host,
            pre,
            entry,
            memory,
            cpu: grants.cpu,
            _loaded: loaded,
        })
    }

    /// A module, compiled once for all who use it at the same time.
    pub(crate) fn module(&self, path: &Path) -> Result<(Arc<Host>, Arc<Loaded>), WasmError> {
        let bytes = read(path)?;
        let host = self.host()?;
        let digest: ModuleDigest = Sha256::digest(&bytes).into();
        let slot = self.slot(digest);
        let mut held = lock(&slot);
        if let Some(loaded) = held.upgrade() {
            return Ok((host, loaded));
        }
        let loaded = Arc::new(Loaded::new(&host, path, &bytes, digest)?);
        *held = Arc::downgrade(&loaded);
        Ok((host, loaded))
    }

    fn slot(&self, digest: ModuleDigest) -> Slot {
        let mut modules = lock(&self.0.modules);
        // Somebody has a slot that counts more than once, or has its lock.
        modules.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|held| held.strong_count() > 0)
        });
        Arc::clone(modules.entry(digest).or_default())
    }

    pub(crate) fn host(&self) -> Result<Arc<Host>, WasmError> {
        let config = &self.0.config;
        let host = self.0.host.get_or_init(|| {
            let host = Host::new(config).map_err(|error| format!("{error:#}"))?;
            Ok(Arc::new(host))
        });
        host.clone().map_err(WasmError::Engine)
    }
}

impl Host {
    fn new(config: &WasmConfig) -> wasmtime::Result<Self> {
        let engine = engine()?;
        let mut modules = Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut modules, Guest::wasi)?;
        let mut components = component::Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut components)?;
        lookup::add_to_linker(&mut components)?;
        files::add_to_linkers(&mut modules, &mut components)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut components)?;
        let mut agents = component::Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut agents)?;
        add_to_linker(&mut agents)?;
        let cache = config.cache.as_ref().and_then(|dir| {
            CodeCache::open(dir, &engine)
                .inspect_err(|error| {
                    tracing::warn!(%error, dir = %dir.display(), "compiled modules are not kept");
                })
                .ok()
        });
        Ok(Self {
            ticker: Ticker::start(&engine)?,
            engine,
            modules,
            components,
            agents,
            turns: Semaphore::new(MAX_GUESTS as usize),
            agent_places: AGENT_PLACES.map(|places| Semaphore::new(places as usize)),
            client: Arc::new(HttpClient::new(config.egress.clone())),
            cache,
        })
    }
}

/// Bytes of memory that a tool may have.
pub(crate) fn memory_limit(descriptor: &ToolDescriptor) -> Result<u64, WasmError> {
    let megabytes = descriptor.limits.memory_mb.unwrap_or(DEFAULT_MEMORY_MB);
    match megabytes.checked_mul(1 << 20) {
        Some(bytes) if bytes > 0 && bytes <= MAX_MEMORY_BYTES => Ok(bytes),
        _ => Err(WasmError::MemoryLimit(megabytes)),
    }
}

/// The module of a file: as it is, or of its text.
fn read(path: &Path) -> Result<Vec<u8>, WasmError> {
    let failed = |source| WasmError::Read {
        path: path.to_owned(),
        source,
    };
    // A named pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty());
    let file = std::fs::File::from(file.map_err(|error| failed(error.into()))?);
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let size = meta.len();
    let mut bytes = Vec::new();
    let mut bounded = file.take(MAX_MODULE_BYTES + 1);
    bounded.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_MODULE_BYTES {
        return Err(WasmError::TooLarge {
            path: path.to_owned(),
            bytes: size,
            limit: MAX_MODULE_BYTES,
        });
    }
    // The text form says by itself what it is, whatever its file is called.
    let is_text = bytes.starts_with(b"(") || bytes.starts_with(b";;");
    if is_text || path.extension().is_some_and(|extension| extension == "wat") {
        let binary = wat::parse_bytes(&bytes).map_err(|error| WasmError::Invalid {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        return Ok(binary.into_owned());
    }
    Ok(bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic leaves is a map without a module, or a slot without one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
